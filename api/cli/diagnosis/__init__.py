"""What `doctor` tests on this machine."""
