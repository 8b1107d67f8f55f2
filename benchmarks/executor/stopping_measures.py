"""How peers stop jobs: cancels, deadlines, graces, what is left of a tree, the death of the owner, kinds of errors.

Runs in: a trial.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measurement import RAW, peer_name

from executor import tasks
from executor.peers import Killable, Peer, PeerFuture
from executor.tasks import JOB, OWNER, PidListener, Report
from executor.watched_pool import CANNOT, IDLE_S, NEVER, NEVER_S, Trial, died_at
from killable.api.cli.bench.pidfd_watcher import PidfdWatcher, WatchedProcess


@dataclass(frozen=True, slots=True)
class CancelWorkload:
    """A job to cancel. The job of the same name in `jobs` is its equal for raw kills."""

    label: str
    function: Callable[..., Any]
    is_large: bool = False

    @property
    def measure(self) -> str:
        return f"cancel → dead, {self.label}, ms"


CANCELS = {
    "python_loop": CancelWorkload("loop in Python", tasks.python_loop),
    "native_loop": CancelWorkload("native call that holds the GIL", tasks.native_loop),
    "ignores_sigterm": CancelWorkload("ignores SIGTERM", tasks.ignores_sigterm),
    "memory_200": CancelWorkload("200 MiB of private memory", partial(tasks.hold_memory, 200), is_large=True),
    "memory_1000": CancelWorkload("1000 MiB of private memory", partial(tasks.hold_memory, 1000), is_large=True),
}
OVERSHOOT = "run_s 0.5, native call: overshoot until dead, ms"
AFTER_KILL = "submit → first line, 0.3 s after a native call was killed, ms"
NEW_JOB = "grace 3 s for a native call: a new job's first line, ms"
NEIGHBOUR = "grace 3 s for a native call: result of a job in another worker, ms"
CHILDREN = "alive after a cancel (of child, setsid, double fork), processes"
OWNER_DEATH = "owner SIGKILLed → all workers and their children dead, ms"
ERROR_TYPES = "cancel, timeout, SEGV, KILL, exit 3, MemoryError: distinct errors, types"
SETTLE_S = 0.05
"""From a job's first line to the cancel: the job is deep in its call."""
RUN_S = 0.5
GRACE_S = 3.0
NEIGHBOUR_S = 0.2
ORPHAN_S = 0.5
"""After a job is dead: a process of its tree that is alive then counts as left behind."""
RESULT_S = 20.0
_CRASHES = (tasks.segfault, tasks.sigkill, tasks.exit_3, tasks.memory_error)


def measure_cancels(workload: str, trial: Trial) -> None:
    """Time a cancel without grace until the process is dead; for killable, in turn with raw kills of its equal."""
    cancel = CANCELS[workload]
    if not trial.peer_type.can_cancel:
        trial.set_outcome(cancel.measure, CANNOT)
        return
    plan = trial.plan
    with ExitStack() as stack:
        pool = stack.enter_context(trial.watched_pool())
        raw_kill = _raw_killer(stack, workload, pool.watcher) if trial.peer_type is Killable else None
        for _ in trial.repeat(plan.executor_memory_kills if cancel.is_large else plan.executor_kills):
            future, watched = pool.start(cancel.function)
            time.sleep(SETTLE_S)
            cancelled_at = time.monotonic()
            pool.peer.cancel(future)
            dead_at = pool.died_at(watched)
            if dead_at is None:
                trial.set_outcome(cancel.measure, NEVER)
                return
            trial.add(cancel.measure, (dead_at - cancelled_at) * 1000)
            if raw_kill is not None:
                trial.results.add(peer_name(cancel.measure, RAW), raw_kill())


def _raw_killer(stack: ExitStack, workload: str, watcher: PidfdWatcher) -> Callable[[], float]:
    """Return a function that starts a process, kills it and returns the milliseconds until it is dead."""
    import raw_kill

    fork_server = stack.enter_context(raw_kill.ForkServer("jobs", nice=0))

    def kill() -> float:
        pid = fork_server.fork(workload)
        time.sleep(SETTLE_S)
        return raw_kill.kill(pid, watcher)

    return kill


def measure_deadline(trial: Trial) -> None:
    """Time from the end of a run time limit until the process is dead."""
    if not trial.peer_type.can_time_out:
        trial.set_outcome(OVERSHOOT, CANNOT)
        return
    with trial.watched_pool() as pool:
        for _ in trial.repeat(trial.plan.executor_deadlines):
            pool.peer.submit_for(RUN_S, tasks.native_loop, pool.address)
            started = pool.listener.receive()
            dead_at = pool.died_at(pool.watcher.watch(started.pid))
            if dead_at is None:
                trial.set_outcome(OVERSHOOT, NEVER)
                return
            trial.add(OVERSHOOT, (dead_at - started.at_ns / 1e9 - RUN_S) * 1000)


def measure_after_kill(trial: Trial) -> None:
    """Kill a native call, wait until a new worker could be there, and time the first line of the next call."""
    if not trial.peer_type.can_cancel:
        trial.set_outcome(AFTER_KILL, CANNOT)
        return
    with trial.watched_pool() as pool:
        for _ in trial.repeat(trial.plan.executor_after_kills):
            future, watched = pool.start(tasks.native_loop)
            pool.peer.cancel(future)
            if pool.died_at(watched) is None:
                trial.set_outcome(AFTER_KILL, NEVER)
                return
            time.sleep(IDLE_S)
            submitted_ns = time.monotonic_ns()
            trial.add(AFTER_KILL, (pool.peer.submit(tasks.first_line).result(RESULT_S) - submitted_ns) / 1e6)


def measure_graces(trial: Trial) -> None:
    """While a cancelled native job has its grace: time a new job in an idle worker, and the result of a busy worker."""
    if not trial.peer_type.can_cancel:
        trial.set_outcome(NEW_JOB, CANNOT)
        trial.set_outcome(NEIGHBOUR, CANNOT)
        return
    with trial.watched_pool() as pool:
        for _ in trial.repeat(trial.plan.executor_graces):
            future, watched = pool.start(tasks.native_loop)
            time.sleep(SETTLE_S)
            cancelled_ns = time.monotonic_ns()
            pool.peer.cancel(future, GRACE_S)
            trial.add(NEW_JOB, (pool.peer.submit(tasks.first_line).result(RESULT_S) - cancelled_ns) / 1e6)
            pool.died_at(watched)
    with trial.watched_pool() as pool:
        for _ in trial.repeat(trial.plan.executor_graces):
            future, watched = pool.start(tasks.native_loop)
            neighbour = pool.peer.submit(tasks.compute_for, NEIGHBOUR_S, pool.address)
            pool.listener.receive()
            pool.peer.cancel(future, GRACE_S)
            try:
                done_ns = neighbour.result(RESULT_S)
            except Exception:
                trial.set_outcome(NEIGHBOUR, "lost")
                return
            trial.add(NEIGHBOUR, (time.monotonic_ns() - done_ns) / 1e6)
            pool.died_at(watched)


def measure_children(trial: Trial) -> None:
    """Cancel a job with a process tree and count the processes that are alive afterwards."""
    if not trial.peer_type.can_cancel:
        trial.set_outcome(CHILDREN, CANNOT)
        return
    with trial.watched_pool() as pool:
        for _ in trial.repeat(trial.plan.executor_trees):
            future = pool.peer.submit(tasks.process_tree, pool.address)
            tree = [pool.listener.receive() for _ in tasks.TREE_ROLES]
            worker = next(report.pid for report in tree if report.role == JOB)
            watched = pool.watcher.watch(worker)
            pool.peer.cancel(future)
            pool.died_at(watched)
            time.sleep(ORPHAN_S)
            left = [report for report in tree if report.pid != worker and _is_alive(report.pid)]
            trial.add(CHILDREN, float(len(left)))
            if left:
                trial.set_outcome(CHILDREN, f"{len(left)} left")
                roles = ", ".join(sorted(report.role for report in left))
                trial.results.remarks.append(f"{trial.peer_type.name}: alive after a cancel: {roles}")
            for report in left:
                os.kill(report.pid, signal.SIGKILL)


def measure_owner_death(trial: Trial) -> None:
    """SIGKILL the owner of two workers that run a process tree each: the program, or the peer's own processes."""
    for _ in trial.repeat(trial.plan.executor_owners):
        with PidListener() as listener, PidfdWatcher(NEVER_S) as watcher:
            command = [sys.executable, "-m", "executor.trial", "--owner", trial.peer_type.name, listener.address]
            program = subprocess.Popen(command)
            owners, tree = _receive_trees(listener)
            watched = [watcher.watch(report.pid) for report in tree]
            killed_at = time.monotonic()
            for report in owners:
                os.kill(report.pid, signal.SIGKILL)
            if any(report.pid == program.pid for report in owners):
                program.wait()  # as a shell would: to a worker that looks for its pid, a zombie is there
            dead_at = [died_at(watcher, watched[0])]
            dead_at += [died_at(watcher, each) for each in watched[1:] if _dies_soon(each)]
            alive = [report for report in tree if _is_alive(report.pid)]
            program.kill()
            program.wait()
            if alive:
                trial.set_outcome(OWNER_DEATH, f"{len(alive)} of {len(tree)} alive")
                return
            trial.add(OWNER_DEATH, (max(at for at in dead_at if at is not None) - killed_at) * 1000)


def _receive_trees(listener: PidListener) -> tuple[list[Report], list[Report]]:
    """Return the reports of the owners, and those of both process trees."""
    owners: list[Report] = []
    tree: list[Report] = []
    while len(tree) < 2 * len(tasks.TREE_ROLES):
        report = listener.receive()
        (owners if report.role == OWNER else tree).append(report)
    return owners, tree


def _dies_soon(watched: WatchedProcess) -> bool:
    """Return whether the process dies within ORPHAN_S: the wait for the first one was long enough for all."""
    return bool(select.select([watched.pidfd], [], [], ORPHAN_S)[0])


def _is_alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def measure_error_types(trial: Trial) -> None:
    """Count the distinct types of error that a future raises for six kinds of end."""
    ends: dict[str, Callable[[Peer, PidListener], PeerFuture | None]] = {
        "cancel": _submit_and_cancel,
        "timeout": _submit_with_timeout,
        **{crash.__name__: partial(_submit_crash, crash) for crash in _CRASHES},
    }
    with PidListener() as listener, trial.warm_pool(1) as peer:
        names = {end: _error_type(peer, submit(peer, listener)) for end, submit in ends.items()}
    trial.add(ERROR_TYPES, float(len(set(names.values()) - {None})))
    listed = ", ".join(f"{end} {name or CANNOT}" for end, name in names.items())
    trial.results.remarks.append(f"{trial.peer_type.name} raises: {listed}")


def _error_type(peer: Peer, future: PeerFuture | None) -> str | None:
    """Return the type of error that a future raises, or None. Replace a pool that is broken then."""
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


def _submit_and_cancel(peer: Peer, listener: PidListener) -> PeerFuture | None:
    if not peer.can_cancel:
        return None
    future = peer.submit(tasks.python_loop, listener.address)
    listener.receive()
    peer.cancel(future)
    return future


def _submit_with_timeout(peer: Peer, listener: PidListener) -> PeerFuture | None:
    return peer.submit_for(RUN_S, tasks.python_loop, listener.address) if peer.can_time_out else None


def _submit_crash(crash: Callable[[], None], peer: Peer, _listener: PidListener) -> PeerFuture:
    return peer.submit(crash)
