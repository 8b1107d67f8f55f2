"""Zombies of other programs that become children of a server, which is the init of a container, or a subreaper.

Runs in: supervisor. Behind `ports`. Not for an Executor, whose process is the program's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from killable.supervisor.linux.procfs import children, stat_fields
from killable.workers.runtime import process_setup

REAP_S = 5.0
"""A child that is a zombie for so long is waited for by nobody. What this program has started is, at once."""


def is_reaper_of_strangers() -> bool:
    """Return whether orphans of other programs become children of this process: it is PID 1, or a subreaper."""
    return os.getpid() == 1 or process_setup.is_subreaper()


class StrangerReaper:
    """Reaps adopted zombies, as the init of a container does; else each would keep its number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: set[int] = set()
        self._timer = loop.call_later(REAP_S, self._look)

    def _look(self) -> None:
        zombies = {pid for pid in children(os.getpid()) if stat_fields(pid)[:1] == [b"Z"]}
        for pid in zombies & self._before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._before = zombies
        self._timer = self._loop.call_later(REAP_S, self._look)

    def close(self) -> None:
        self._timer.cancel()
