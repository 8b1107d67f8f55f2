"""The ports on Linux: the only package that touches pids, signals, cgroups, pipes and /proc."""
