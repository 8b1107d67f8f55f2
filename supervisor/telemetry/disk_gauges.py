"""The room on the disks that a server writes to, asked for in a thread: one that hangs holds up nothing.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial

from killable.supervisor import event_loops

WAIT_S = 0.5
"""Time for an answer; later the last one is told again."""

Room = tuple[int, int]
"""Bytes that are free for this user, and all."""


class DiskGauges:
    """Of one server. One question at a time: of a disk that hangs a single thread waits."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """`paths` by what is written there: journal, files."""
        self._paths = paths
        self._asked: asyncio.Future[dict[str, Room]] | None = None
        self._known: dict[str, Room] = {}

    async def read(self) -> Mapping[str, Room]:
        """Return the free bytes and all bytes by what is written there."""
        if not self._paths:
            return {}
        if self._asked is None:
            ask = partial(rooms_of, self._paths)
            self._asked = event_loops.in_thread(asyncio.get_running_loop(), ask, is_waited_for=False)
        asked = self._asked
        await asyncio.wait({asked}, timeout=WAIT_S)
        if asked.done():
            self._known = asked.result()
            if self._asked is asked:
                self._asked = None
        return self._known


def rooms_of(paths: Mapping[str, str]) -> dict[str, Room]:
    """Return the room of the file system of each path, by its name. One that cannot be asked is left out. Blocks."""
    found = {}
    for name, path in paths.items():
        try:
            disk = os.statvfs(path)
        except OSError:
            continue
        found[name] = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    return found
