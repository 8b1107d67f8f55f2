"""What a job is and how it stands: record, state, events, output, input, limits, retention."""
