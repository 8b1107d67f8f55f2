"""Who gets a worker when: admission, the dispatcher, retries, drain, recovery."""
