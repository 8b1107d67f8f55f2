"""One worker's life: take orders, run a job function, write frames, hear a stop."""
