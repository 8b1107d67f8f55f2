"""What `killable.testing` gives: a context without a process, a server with assertions, and pytest's fixtures."""
