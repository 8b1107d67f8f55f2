"""The protocol between the supervisor and its processes: frames, messages, values. Standard library only, except
`pickling`."""
