"""What `killable bench` measures and how it is told; the project's own benchmarks use its instruments."""
