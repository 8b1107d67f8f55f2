"""Detect kills by the out-of-memory killer, by the counter of the memory cgroup that supervisor and workers share.

Runs in: supervisor. Behind `ports`. The kernel counts each victim in the victim's own cgroup, whichever limit was
reached: that of this cgroup, that of one above it, or the memory of the machine.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from killable.supervisor.linux.cgroup import mounts

VICTIMS = "oom_kill"


def counted(name: str, text: bytes) -> int | None:
    """Return a counter of `memory.events` (v2) or `memory.oom_control` (v1); both have `oom_kill`, the victims."""
    found = re.search(rf"^{name} (\d+)$".encode(), text, re.MULTILINE)
    return int(found[1]) if found else None


def own_limit_struck(before: bytes, after: bytes) -> bool:
    """Return whether a cgroup was killed for its own memory.max, by its `memory.events` before and after.

    `oom_kill` also counts victims of a shortage of the whole machine, `oom` only hits of this cgroup's own limit.
    """
    return all((counted(name, after) or 0) > (counted(name, before) or 0) for name in ("oom", "oom_kill"))


class OomCounter:
    """Reads the victim counter. Keeps its file open, so that a reading costs a microsecond."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file with the counter (default: that of this process's own cgroup)."""
        self._descriptor = -1
        self._claimed = 0
        """Victims counted up to here are attributed: a process that dies later was none of them."""
        try:
            path = path or own_group_file()
            if path is not None:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass  # unknown, then

    def read(self) -> bytes:
        """Return the current text of the file; empty if there is none."""
        if self._descriptor < 0:
            return b""
        try:
            return os.pread(self._descriptor, 4096, 0)
        except OSError:
            return b""

    def evidence(self, before: bytes, *, claims: bool) -> str:
        """Return yes, no or unknown: whether there was a victim after the reading `before` that is not attributed yet.

        `claims`: attribute the victims to the caller's process: SIGKILL ended it, but not the supervisor's.
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


def own_group_file() -> Path | None:
    """Return the counter file of this process's cgroup: the memory controller is on v1 or on v2, never on both."""
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
