"""The runtime of one worker: take orders, run a job function, write frames, handle stops."""
