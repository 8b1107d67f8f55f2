"""A pool that loads for a second, and 200 MB: what a kill costs the next job, and what a worker costs in memory.

Runs in: a trial.
"""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool

import psutil
from deathwatch import DeathWatch

from executor import tasks
from executor.contest import Contest, within_budget
from executor.ear import Ear
from executor.peers import Killable, Peer, stop

SPARE = "killed, then dead → next first line, 1 s + 200 MB preload, ms"
SPARE_FROM_KILL = "kill → next first line, 1 s + 200 MB preload, ms"
NO_SPARE = "the same without a spare, ms"
USS = "private memory of an idle worker, 200 MB preload, MB"
READY_S = 0.3
"""Until a spare that was forked from 200 MB is ready."""
IDLE_S = 0.2


def recovers(contest: Contest) -> None:
    """Kill the only worker; how late is the next job, which is submitted at once?"""
    _recovers(contest, spares=1)


def recovers_without_spare(contest: Contest) -> None:
    _recovers(contest, spares=0)


def _recovers(contest: Contest, spares: int) -> None:
    from_dead = SPARE if spares else NO_SPARE
    with Ear() as ear, DeathWatch() as watch, contest.kind(1, preload=tasks.load, spares=spares) as peer:
        peer.submit(tasks.nothing).result()
        for _ in within_budget(contest.plan.executor_recoveries):
            future = peer.submit(tasks.python_loop, ear.address)
            pid = ear.hear().pid
            time.sleep(READY_S)
            watched = watch.watch(pid)
            asked_ns = time.monotonic_ns()
            stop(peer, future, pid)
            line_ns = _next_line(peer)
            dead_ns = watch.died_at(watched) * 1e9
            certificate = getattr(future, "certificate", None)
            if contest.kind is Killable and certificate is not None:
                dead_ns = asked_ns + certificate["tree_empty"] * 1e6
            contest.add(from_dead, (line_ns - dead_ns) / 1e6)
            if spares:
                contest.add(SPARE_FROM_KILL, (line_ns - asked_ns) / 1e6)


def _next_line(peer: Peer) -> int:
    while True:
        try:
            line_ns: int = peer.submit(tasks.first_line).result()
            return line_ns
        except BrokenProcessPool:
            peer.reopen()


def memory(contest: Contest) -> None:
    """Measure what of an idle worker's memory nobody else has (USS)."""
    with contest.kind(1, preload=tasks.load) as peer:
        pid = peer.submit(tasks.rest, 0).result()
        time.sleep(IDLE_S)
        contest.add(USS, psutil.Process(pid).memory_full_info().uss / 1e6)
