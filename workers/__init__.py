"""What runs inside the processes that get killed. Standard library only, but for
`pickles`, `pydantics` and `builtin`; never imports the supervisor."""
