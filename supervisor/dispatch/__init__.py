"""Scheduling of jobs: admission, the dispatcher, retries, drain, recovery."""
