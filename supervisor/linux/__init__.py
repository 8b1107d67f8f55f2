"""The edge to the operating system: the only package that touches pids, signals, cgroups, pipes and /proc."""
