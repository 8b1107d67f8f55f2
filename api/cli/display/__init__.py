"""What a command shows: words, tables, stories, errors, progress."""
