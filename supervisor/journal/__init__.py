"""The journal, which survives the death of the server: an SQLite file written by one thread."""
