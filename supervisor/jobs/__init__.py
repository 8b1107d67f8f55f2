"""A job's data: record, state, events, output, input, limits, retention."""
