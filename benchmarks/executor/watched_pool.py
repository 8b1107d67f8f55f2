"""One peer in one measure: a pool that is warm, whose starts and deaths are seen, and where the values go.

Runs in: a trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from measurement import Samples, peer_name
from trial_plan import Plan

from executor import tasks
from executor.peers import WORKERS, Peer, PeerFuture
from executor.tasks import PidListener
from killable.api.cli.bench.pidfd_watcher import PidfdWatcher, WatchedProcess

CANNOT = "no way"
"""Its interface has nothing to do this with."""
NEVER = "never"
PAUSE_S = 0.02
"""Between two repetitions, for the fork of a new worker."""
NEVER_S = 10.0
"""A process that is alive after this is reported as never ending."""
IDLE_S = 0.3


@dataclass(frozen=True, slots=True)
class WatchedPool:
    """A pool whose workers have all run a job, with the means to see when a job starts and its process dies."""

    peer: Peer
    listener: PidListener
    watcher: PidfdWatcher

    @property
    def address(self) -> str:
        return self.listener.address

    def start(self, function: Callable[..., Any]) -> tuple[PeerFuture, WatchedProcess]:
        """Submit a task that takes an address; return when it has reported its start."""
        future = self.peer.submit(function, self.address)
        return future, self.watcher.watch(self.listener.receive().pid)

    def died_at(self, watched: WatchedProcess) -> float | None:
        """Wait for a death; return its monotonic time in seconds, or None after NEVER_S."""
        return died_at(self.watcher, watched)


@dataclass(frozen=True, slots=True)
class Trial:
    """One peer in one measure."""

    peer_type: type[Peer]
    plan: Plan
    results: Samples

    def add(self, measure: str, *values: float) -> None:
        self.results.add(peer_name(measure, self.peer_type.name), *values)

    def set_outcome(self, measure: str, text: str) -> None:
        """Set the text to show in place of a number."""
        self.results.outcomes[peer_name(measure, self.peer_type.name)] = text

    def repeat(self, count: int) -> Iterator[int]:
        """Count up to `count` until the time budget is used; yield at least once."""
        until = time.monotonic() + self.plan.executor_budget_s
        for number in range(count):
            yield number
            time.sleep(PAUSE_S)
            if time.monotonic() > until:
                return

    @contextmanager
    def warm_pool(self, workers: int = WORKERS) -> Iterator[Peer]:
        """Open a pool and run a job in every worker."""
        with self.peer_type(workers) as peer:
            for future in [peer.submit(tasks.occupy, 0.1) for _ in range(workers)]:
                future.result()
            time.sleep(PAUSE_S)
            yield peer

    @contextmanager
    def watched_pool(self) -> Iterator[WatchedPool]:
        with PidListener() as listener, PidfdWatcher(NEVER_S) as watcher, self.warm_pool() as peer:
            yield WatchedPool(peer, listener, watcher)


def died_at(watcher: PidfdWatcher, watched: WatchedProcess) -> float | None:
    try:
        return watcher.died_at(watched)
    except TimeoutError:
        return None
