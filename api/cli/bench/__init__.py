"""What `killable bench` measures, and its report. The project's own benchmarks use its instruments."""
