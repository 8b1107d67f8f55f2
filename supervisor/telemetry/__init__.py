"""Counts, measurements and log records of the jobs."""
