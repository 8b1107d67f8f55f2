"""One run of a job on a worker, from the order until its process tree is gone."""
