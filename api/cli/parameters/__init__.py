"""What is typed on the command line: options, inputs, ids."""
