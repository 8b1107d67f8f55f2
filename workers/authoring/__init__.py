"""The API for authors of jobs: `@job`, `@preload`, `Context`, limits, and the schema of an input."""
