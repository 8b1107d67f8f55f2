"""Workers kept warm: pools, their zygotes, and who may borrow a worker."""
