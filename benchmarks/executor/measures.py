"""Endings: a cancel, a deadline, a crash, the program's own death. Who is dead when, who is left, what is told.

Runs in: a trial.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from deathwatch import DeathWatch, Watched
from samples import RAW, beside

from executor import tasks
from executor.contest import CANNOT, NEVER, Contest, within_budget
from executor.ear import Ear, Said
from executor.peers import Awaited, Killable, Peer

CANCELS = {
    "python_loop": "cancel → dead, loop in Python, ms",
    "native_loop": "cancel → dead, native call that holds the GIL, ms",
    "ignores_sigterm": "cancel → dead, ignores SIGTERM, ms",
    "hoards_200": "cancel → dead, 200 MB of its own, ms",
    "hoards_1000": "cancel → dead, 1000 MB of its own, ms",
}
OVERSHOOT = "run_s 0.5, native call: overshoot until dead, ms"
NEW_JOB = "grace 3 s for a native call: a new job's first line, ms"
NEIGHBOUR = "grace 3 s for a native call: a neighbour's result, ms"
CHILDREN = "alive after a cancel, of child, setsid, double fork"
OWNER = "owner SIGKILLed → all workers and their children dead, ms"
TYPES = "cancel, timeout, SEGV, KILL, exit 3, MemoryError: types"

NEVER_S = 10.0
"""Who is alive then will be."""
SETTLE_S = 0.05
"""From a job's first line to what ends it: it is deep in its call."""
RUN_S = 0.5
GRACE_S = 3.0
NEIGHBOUR_S = 0.2
LEFT_S = 0.5
"""After a job is dead: whoever lives then is left."""
RESULT_S = 20.0
_WORK: dict[str, Callable[..., Any]] = {
    "python_loop": tasks.python_loop,
    "native_loop": tasks.native_loop,
    "ignores_sigterm": tasks.ignores_sigterm,
    "hoards_200": partial(tasks.hoards, 200),
    "hoards_1000": partial(tasks.hoards, 1000),
}
_CRASHES = (tasks.segfault, tasks.killed, tasks.leaves, tasks.out_of_memory)


def cancels(workload: str, contest: Contest) -> None:
    """Time a cancel without grace until the process is dead; beside ours, turn by turn, a raw kill of a like one."""
    measure = CANCELS[workload]
    if not contest.kind.cancels:
        return contest.say(measure, CANNOT)
    hoards = workload.startswith("hoards")
    plan = contest.plan
    with Ear() as ear, DeathWatch(NEVER_S) as watch, ExitStack() as stack:
        limit = _limit(stack, "executor.hoards" if hoards else "workloads") if contest.kind is Killable else None
        peer = stack.enter_context(contest.warm())
        for _ in within_budget(plan.hoard_kills if hoards else plan.executor_kills):
            future = peer.submit(_WORK[workload], ear.address)
            watched = watch.watch(ear.hear().pid)
            time.sleep(SETTLE_S)
            asked_at = time.monotonic()
            peer.cancel(future)
            dead_at = _death(watch, watched)
            if dead_at is None:
                return contest.say(measure, NEVER)
            contest.add(measure, (dead_at - asked_at) * 1000)
            if limit is not None:
                contest.results.add(beside(measure, RAW), limit(workload, watch))
    return None


def _limit(stack: ExitStack, module: str) -> Callable[[str, DeathWatch], float]:
    import raw

    forker = stack.enter_context(raw.RawForker(module, nice=0))

    def kill(workload: str, watch: DeathWatch) -> float:
        victim = forker.fork(workload)
        time.sleep(SETTLE_S)
        return raw.kill(victim, watch)

    return kill


def _death(watch: DeathWatch, watched: Watched) -> float | None:
    try:
        return watch.died_at(watched)
    except TimeoutError:
        return None


def deadline(contest: Contest) -> None:
    """Time from the moment at which a deadline is over until the process is dead."""
    if not contest.kind.times_out:
        return contest.say(OVERSHOOT, "no timeout")
    with Ear() as ear, DeathWatch(NEVER_S) as watch, contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_deadlines):
            peer.submit_for(RUN_S, tasks.native_loop, ear.address)
            said = ear.hear()
            dead_at = _death(watch, watch.watch(said.pid))
            if dead_at is None:
                return contest.say(OVERSHOOT, NEVER)
            contest.add(OVERSHOOT, (dead_at - said.at_ns / 1e9 - RUN_S) * 1000)
    return None


def graces(contest: Contest) -> None:
    """A native job has its grace: does an idle worker take a new job meanwhile, does a busy one hand in its result?"""
    if not contest.kind.cancels:
        contest.say(NEW_JOB, CANNOT)
        return contest.say(NEIGHBOUR, CANNOT)
    with Ear() as ear, DeathWatch(NEVER_S) as watch, contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_graces):
            future = peer.submit(tasks.native_loop, ear.address)
            watched = watch.watch(ear.hear().pid)
            time.sleep(SETTLE_S)
            asked_ns = time.monotonic_ns()
            peer.cancel(future, GRACE_S)
            contest.add(NEW_JOB, (peer.submit(tasks.first_line).result(RESULT_S) - asked_ns) / 1e6)
            _death(watch, watched)
    with Ear() as ear, DeathWatch(NEVER_S) as watch, contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_graces):
            future = peer.submit(tasks.native_loop, ear.address)
            watched = watch.watch(ear.hear().pid)
            neighbour = peer.submit(tasks.works_for, NEIGHBOUR_S, ear.address)
            ear.hear()
            peer.cancel(future, GRACE_S)
            try:
                done_ns = neighbour.result(RESULT_S)
            except Exception:
                return contest.say(NEIGHBOUR, "lost")
            contest.add(NEIGHBOUR, (time.monotonic_ns() - done_ns) / 1e6)
            _death(watch, watched)
    return None


def children(contest: Contest) -> None:
    """Cancel a job that has a child, one with a session of its own and one whose parent has left."""
    if not contest.kind.cancels:
        return contest.say(CHILDREN, CANNOT)
    with Ear() as ear, DeathWatch(NEVER_S) as watch, contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_families):
            future = peer.submit(tasks.family, ear.address)
            said = [ear.hear() for _ in tasks.PRESENT]
            itself = next(each.pid for each in said if each.word == "itself")
            watched = watch.watch(itself)
            peer.cancel(future)
            _death(watch, watched)
            time.sleep(LEFT_S)
            left = [each for each in said if each.pid != itself and _lives(each.pid)]
            contest.add(CHILDREN, float(len(left)))
            if left:
                contest.say(CHILDREN, f"{len(left)} left")
                who = ", ".join(sorted(each.word for each in left))
                contest.results.remarks.append(f"{contest.kind.name}: alive after a cancel: {who}")
            for each in left:
                os.kill(each.pid, signal.SIGKILL)
    return None


def owner(contest: Contest) -> None:
    """SIGKILL what two workers that both run a family belong to: the program, or processes of its own."""
    for _ in within_budget(contest.plan.executor_owners):
        with Ear() as ear, DeathWatch(NEVER_S) as watch:
            program = subprocess.Popen([sys.executable, "-m", "executor.owner", contest.kind.name, ear.address])
            owners, said = _families(ear)
            watched = [watch.watch(each.pid) for each in said]
            asked_at = time.monotonic()
            for each in owners:
                os.kill(each.pid, signal.SIGKILL)
            dead_at = [_death(watch, watched[0]), *(_death(watch, each) for each in watched[1:] if _is_over(each))]
            alive = [each for each in said if _lives(each.pid)]
            program.kill()
            program.wait()
            if alive:
                return contest.say(OWNER, f"{len(alive)} of {len(said)} live")
            contest.add(OWNER, (max(at for at in dead_at if at is not None) - asked_at) * 1000)
    return None


def _families(ear: Ear) -> tuple[list[Said], list[Said]]:
    """Hear of those that own workers, and then of both families."""
    owners: list[Said] = []
    said: list[Said] = []
    while len(said) < 2 * len(tasks.PRESENT):
        one = ear.hear()
        (owners if one.word == tasks.OWNER else said).append(one)
    return owners, said


def _is_over(watched: Watched) -> bool:
    """Whether a death is worth waiting for: once the first has had its time, so have the others."""
    import select

    return bool(select.select([watched.pidfd], [], [], LEFT_S)[0])


def _lives(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def types(contest: Contest) -> None:
    """Count the types of error by which six endings can be told apart."""
    ends: dict[str, Callable[[Peer, Ear], Awaited | None]] = {"cancel": _cancelled, "timeout": _timed_out}
    for crash in _CRASHES:
        ends[crash.__name__] = lambda peer, _, crash=crash: peer.submit(crash)
    with Ear() as ear, contest.warm(1) as peer:
        told = {name: _told(peer, end(peer, ear)) for name, end in ends.items()}
    contest.add(TYPES, float(len(set(told.values()) - {None})))
    contest.results.remarks.append(
        f"{contest.kind.name}: " + ", ".join(f"{ending} {name or CANNOT}" for ending, name in told.items())
    )


def _told(peer: Peer, future: Awaited | None) -> str | None:
    """Return the type of error that a future raises; the pool is usable then."""
    if future is None:
        return None
    until = time.monotonic() + RESULT_S
    try:
        future.result(RESULT_S)
    except BrokenProcessPool as error:
        peer.reopen()
        return type(error).__name__
    except BaseException as error:
        return type(error).__name__ if time.monotonic() < until else None
    return None


def _cancelled(peer: Peer, ear: Ear) -> Awaited | None:
    if not peer.cancels:
        return None
    future = peer.submit(tasks.python_loop, ear.address)
    ear.hear()
    peer.cancel(future)
    return future


def _timed_out(peer: Peer, ear: Ear) -> Awaited | None:
    return peer.submit_for(RUN_S, tasks.python_loop, ear.address) if peer.times_out else None
