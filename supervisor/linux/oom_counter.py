"""Whether the kernel's out-of-memory killer struck: the counter of the memory cgroup that supervisor and workers share.

Runs in: supervisor. Part of the seam. The kernel counts each victim in the group that the victim is in, whatever the
memory was short of: that group's own limit, one above it, the whole machine.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from killable.supervisor.linux.cgroup import mounts

VICTIMS = "oom_kill"


def counted(name: str, text: bytes) -> int | None:
    """Return a number of `memory.events` (v2) or `memory.oom_control` (v1); both have `oom_kill`, the victims."""
    found = re.search(rf"^{name} (\d+)$".encode(), text, re.MULTILINE)
    return int(found[1]) if found else None


def own_limit_struck(before: bytes, after: bytes) -> bool:
    """Tell from a group's `memory.events` whether it was killed for its own memory.max.

    `oom_kill` counts a victim of the whole machine's shortage too, `oom` only what this group's limit did.
    """
    return all((counted(name, after) or 0) > (counted(name, before) or 0) for name in ("oom", "oom_kill"))


class OomCounter:
    """Keeps the file open, so that a reading costs a microsecond."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file that counts (default: this process's own group's)."""
        self._descriptor = -1
        self._claimed = 0
        """So many victims are known: nobody who dies later was one of them."""
        try:
            path = path or _file_of_own_group()
            if path is not None:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass  # not known, then

    def read(self) -> bytes:
        """Return what the kernel tells now; empty where nothing does."""
        if self._descriptor < 0:
            return b""
        try:
            return os.pread(self._descriptor, 4096, 0)
        except OSError:
            return b""

    def evidence(self, before: bytes, *, claims: bool) -> str:
        """Return yes, no or unknown: whether there was a victim since a reading, not known to be another.

        It `claims` them when it was killed with SIGKILL, and not by us.
        """
        was, is_now = counted(VICTIMS, before), counted(VICTIMS, self.read())
        if was is None or is_now is None:
            return "unknown"
        if is_now <= max(was, self._claimed):
            return "no"
        if claims:
            self._claimed = is_now
        return "yes"

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _file_of_own_group() -> Path | None:
    """Return the file that counts for this process: the memory controller is on v1 or on v2, never on both."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for kind, names, root, mount in mounts():
            if kind == "cgroup" and "memory" in controllers.split(",") and "memory" in names:
                file = "memory.oom_control"
            elif kind == "cgroup2" and not controllers:
                file = "memory.events"
            else:
                continue
            found = mount / os.path.relpath(path, root) / file
            if found.exists():
                return found
    return None
