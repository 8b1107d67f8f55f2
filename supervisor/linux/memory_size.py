"""How much memory this process and its workers may have together: that of the machine, or of the container.

Runs in: supervisor, before it starts. Behind `ports`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from killable.supervisor.linux.oom_counter import own_group_file


def usable_memory() -> int:
    """Return the bytes of memory that there are at most: the least of the machine's and the limits of cgroups."""
    total = re.search(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    counter = own_group_file()
    sizes = [] if counter is None else list(_limits_above(counter.parent))
    if total is not None:
        sizes.append(int(total[1]) << 10)
    return min(sizes)


def _limits_above(group: Path) -> Iterator[int]:
    """Yield the memory limits of a cgroup and of those above it (memory.max on v2, memory.limit_in_bytes on v1)."""
    for folder in (group, *group.parents):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):
                pass  # the other version, no controller there, or "max"
