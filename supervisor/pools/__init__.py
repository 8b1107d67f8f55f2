"""Warm workers: pools, their zygotes, and lanes to idle workers."""
