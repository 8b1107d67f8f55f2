"""What supervisor and worker processes say to each other: frames, messages, values. Standard library only, but for
`pickling`."""
