"""The processes between supervisor and worker: guard, zygote, and how a worker starts."""
