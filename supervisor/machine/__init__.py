"""The real side of the seam: the only room that touches pids, signals, cgroups and pipes."""
