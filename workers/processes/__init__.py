"""The processes between supervisor and worker, guard and zygote, and the start of a worker."""
