"""What is counted, measured and logged of the jobs."""
