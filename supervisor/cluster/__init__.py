"""Many machines: a head, which accepts and keeps jobs, over nodes that each run a whole supervisor."""
