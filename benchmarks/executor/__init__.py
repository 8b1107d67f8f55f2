"""The measures and peers of `bench_executor.py`. Kept empty: every worker of every peer imports it."""
