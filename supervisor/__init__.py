"""The asyncio owner of pools, workers and jobs: the only one that decides."""
