"""`Executor`: a supervisor inside the user's program, behind `concurrent.futures`."""
