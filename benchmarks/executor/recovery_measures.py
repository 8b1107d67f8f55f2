"""How soon the next job of a peer starts when a worker that takes a second to load is lost.

Runs in: a trial.
"""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool

from executor import tasks
from executor.peers import Killable, Peer, stop
from executor.tasks import PidListener
from executor.watched_pool import Trial
from killable.api.cli.bench.pidfd_watcher import PidfdWatcher

SPARE = "worker dead → next job's first line, preload of 1 s and 200 MB, ms"
SPARE_FROM_KILL = "kill → next job's first line, preload of 1 s and 200 MB, ms"
NO_SPARE = "the same, killable without a spare worker, ms"
SPARE_READY_S = 0.3
"""Until a spare worker that is forked from 200 MB is ready."""


def measure_recovery(trial: Trial, spares: int) -> None:
    """Kill the only worker, submit the next job at once, and time its first line."""
    from_dead = SPARE if spares else NO_SPARE
    with (
        PidListener() as listener,
        PidfdWatcher() as watcher,
        trial.peer_type(1, preload=tasks.preload, spares=spares) as peer,
    ):
        peer.submit(tasks.do_nothing).result()
        for _ in trial.repeat(trial.plan.executor_recoveries):
            future = peer.submit(tasks.python_loop, listener.address)
            pid = listener.receive().pid
            time.sleep(SPARE_READY_S)
            watched = watcher.watch(pid)
            stopped_ns = time.monotonic_ns()
            stop(peer, future, pid)
            line_ns = _next_first_line(peer)
            dead_ns = watcher.died_at(watched) * 1e9
            certificate = getattr(future, "certificate", None)
            if trial.peer_type is Killable and certificate is not None:
                dead_ns = stopped_ns + certificate["tree_empty"] * 1e6
            trial.add(from_dead, (line_ns - dead_ns) / 1e6)
            if spares:
                trial.add(SPARE_FROM_KILL, (line_ns - stopped_ns) / 1e6)


def _next_first_line(peer: Peer) -> int:
    while True:
        try:
            line_ns: int = peer.submit(tasks.first_line).result()
            return line_ns
        except BrokenProcessPool:
            peer.reopen()
