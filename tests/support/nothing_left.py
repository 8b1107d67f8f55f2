"""What a test may leave behind: nothing. Descriptors, threads, processes, cgroups and tasks are as before, soon."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import ProcessInfo, cgroups_of, open_descriptors, started_by_tests
from support.waiting import LEAVE_S, Pending, until, until_async


@dataclass(frozen=True, slots=True)
class Belongings:
    """What this process holds and has started."""

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]
    processes: frozenset[tuple[int, int]]
    """(pid, start time): descendants, and whatever else the test run started (orphans, guards)."""
    cgroups: frozenset[Path]
    handlers: Mapping[int, Any]
    """Of signals: two servers in one process that put each other's back leave one behind."""

    @classmethod
    def now(cls) -> Belongings:
        return cls(
            open_descriptors(),
            frozenset(threading.enumerate()),
            frozenset((seen.pid, seen.started) for seen in started_by_tests()),
            frozenset(cgroups_of(os.getpid())),
            _handlers(),
        )

    def more(self, besides: Collection[str] = ()) -> dict[str, Any]:
        """Return what there is now that was not there then, by kind; kinds of which there is no more are absent."""
        changed = {n: to for n, to in open_descriptors().items() if self.descriptors.get(n) != to}
        processes: list[ProcessInfo] = [
            seen for seen in started_by_tests() if (seen.pid, seen.started) not in self.processes
        ]
        more = {
            "descriptors": {n: to for n, to in changed.items() if n > 2},
            "streams": {n: to for n, to in changed.items() if n <= 2},
            "threads": [thread for thread in threading.enumerate() if thread not in self.threads],
            "processes": processes,
            "cgroups": [path for path in cgroups_of(os.getpid()) if path not in self.cgroups],
            "handlers": {n: now for n, now in _handlers().items() if now != self.handlers[n]},
        }
        return {kind: left for kind, left in more.items() if left and kind not in besides}


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}


@contextmanager
def leaves_nothing(who: str, besides: Collection[str] = ()) -> Iterator[None]:
    before = Belongings.now()
    yield

    def nothing_more() -> bool | Pending:
        if not before.more(besides):
            return True
        gc.collect()  # what a thread lets go of late may be garbage only now
        return Pending(more) if (more := before.more(besides)) else True

    until(nothing_more, f"{who} leaves nothing behind", LEAVE_S)


@asynccontextmanager
async def leaves_no_task(stay: Callable[[], Collection[asyncio.Task[Any]]] = tuple) -> AsyncIterator[None]:
    """`stay`: those that are of something which tests share."""
    before = asyncio.all_tasks()
    yield
    here = asyncio.current_task()

    def left() -> list[asyncio.Task[Any]]:
        new = [task for task in asyncio.all_tasks() if task not in before and task is not here and task not in stay()]
        return [task for task in new if "_shutdown_watcher" not in repr(task.get_coro())]

    await until_async(lambda: Pending(tasks) if (tasks := left()) else True, "the test leaves no task", LEAVE_S)
