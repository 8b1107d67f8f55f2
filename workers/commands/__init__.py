"""Commands of the machine as job types: their arguments from an input, and their run in a worker."""
