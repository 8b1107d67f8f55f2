"""What survives the death of the server: a SQLite file written by one thread."""
