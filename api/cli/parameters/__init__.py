"""Parsing of the command line: options, inputs, ids."""
