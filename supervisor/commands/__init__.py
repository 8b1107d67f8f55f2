"""One command, run without a server, ended as a job is."""
