"""What runs inside the processes that get killed. Standard library only, but for
`protocol.pickling`, `authoring.pydantic_types` and `builtin`; never imports the supervisor."""
