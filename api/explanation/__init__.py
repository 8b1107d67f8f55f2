"""What became of a job, in words: its story, the rule that ended it, what to change. For the command, the page, MCP."""
