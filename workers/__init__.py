"""The code of the processes below the supervisor: guard, zygote, worker. Standard library only, except
`protocol.pickling`, `authoring.pydantic_types` and `builtin`; never imports the supervisor."""
