"""What a command prints: tables, stories, errors, progress."""
