"""What a server does for its own process before it starts others.

Runs in: supervisor. Behind `ports`. Not for an Executor, whose process is the program's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import NoReturn

from killable.supervisor.linux.procfs import children, stat_fields
from killable.workers.runtime import process_setup

REAP_S = 5.0
"""A child that is a zombie for so long is waited for by nobody. What this program has started is, at once."""

SERVER_OOM_SCORE = -250
"""The out-of-memory score of a server that may lower it (CAP_SYS_RESOURCE): below that of other programs."""


def protect() -> None:
    """Let the kernel's out-of-memory killer take others first, and processes of the same user read nothing of this one.

    A score that somebody has set (systemd's OOMScoreAdjust) stays. An undumpable process (prctl(2)) cannot be traced,
    and its memory, descriptors and environment in /proc belong to root: workers, which run as the same user, could
    read keys and inputs of others there. It dumps no core. What it starts by exec is dumpable again.
    """
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if score.read_text().strip() == "0":
            score.write_text(str(SERVER_OOM_SCORE))
    process_setup.prctl(process_setup.PR_SET_DUMPABLE, 0)


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


def leave() -> NoReturn:
    """End this process at once, with nothing of it run any more: that of a node, when everything below it is gone."""
    os._exit(0)
