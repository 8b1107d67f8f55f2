"""killable's Executor beside other pools: all that only `bench_executor.py` measures with, and whom."""
