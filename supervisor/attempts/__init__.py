"""One run of a job on a worker, until its process tree is gone."""
