"""`Executor`: a supervisor in a program of anybody's, behind `concurrent.futures`."""
