"""What a job's author imports: `@job`, `@preload`, `Context`, limits, and the schema of an input."""
