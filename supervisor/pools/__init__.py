"""Warm workers: pools, their zygotes, and leases of idle workers."""
