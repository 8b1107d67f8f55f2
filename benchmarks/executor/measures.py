"""What is measured of each peer of the Executor: how jobs are stopped, how fast jobs start and run, memory.

Runs in: a trial. A measure is a function that takes a Trial; MEASURES has them all.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from measurement import RAW, Samples, peer_name
from pidfd_watcher import PidfdWatcher, WatchedProcess
from trial_plan import Plan

from executor import tasks
from executor.peers import LIBRARIES, WORKERS, Killable, Peer, PeerFuture, StdlibSpawnPool, stop
from executor.systems import SYSTEMS, Celery, Dask, Ray, Rq
from executor.tasks import JOB, OWNER, PidListener, Report

CANNOT = "no way"
"""Its interface has nothing to do this with."""
NEVER = "never"
PAUSE_S = 0.02
"""Between two repetitions, for the fork of a new worker."""


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
        return _died_at(self.watcher, watched)


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


# ── stopping jobs ──


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

NEVER_S = 10.0
"""A process that is alive after this is reported as never ending."""
SETTLE_S = 0.05
"""From a job's first line to the cancel: the job is deep in its call."""
RUN_S = 0.5
GRACE_S = 3.0
NEIGHBOUR_S = 0.2
IDLE_S = 0.3
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


def _died_at(watcher: PidfdWatcher, watched: WatchedProcess) -> float | None:
    try:
        return watcher.died_at(watched)
    except TimeoutError:
        return None


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
            dead_at = [_died_at(watcher, watched[0])]
            dead_at += [_died_at(watcher, each) for each in watched[1:] if _dies_soon(each)]
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


# ── a preload of 1 s and 200 MB: recovery after a kill, memory of a worker ──

SPARE = "worker dead → next job's first line, preload of 1 s and 200 MB, ms"
SPARE_FROM_KILL = "kill → next job's first line, preload of 1 s and 200 MB, ms"
NO_SPARE = "the same, killable without a spare worker, ms"
USS = "private memory (USS) of an idle worker, 200 MB preloaded, MB"
POOL_MEMORY = "memory (PSS) of a program, two idle workers and all processes behind them, MB"
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


def measure_memory(trial: Trial) -> None:
    with trial.peer_type(1, preload=tasks.preload) as peer:
        pid = peer.submit(tasks.occupy, 0).result()
        time.sleep(IDLE_S)
        trial.add(USS, psutil.Process(pid).memory_full_info().uss / 1e6)


def measure_pool_memory(trial: Trial) -> None:
    """Include this program, which is the same for every peer but for what its library imports."""
    with trial.warm_pool():
        time.sleep(IDLE_S)
        trial.add(POOL_MEMORY, _memory_bytes("Pss:") / 1e6)


# ── starting and running jobs ──

FIRST_LINE = "submit → first line, idle warm worker, ms"
IDLE_FIRST_LINE = "submit → first line after 0.3 s without a call, ms"
BUSY_FIRST_LINE = "submit → first line while another thread of the program computes, ms"
NOOPS = "no-op calls, results fetched, calls/s"
CPU = "processor time of a no-op call, all processes, µs"
MAP_SINGLE = "map of small items, chunksize 1, items/s"
MAP = "map of 100,000 small items, ms"
BYTES = "100 MB of bytes there and back, ms"
STREAM = "stream, one yield per token, tokens/s"
FIRST_TOKEN = "submit → first token at its reader, ms"
COLD_START = "new pool → first result, nothing preloaded, ms"
MAP_ITEMS = 100_000
CHUNKSIZES = (100, 500, 2000, 10_000)
BYTES_EACH_WAY = 100 * 10**6
WARM_UP_JOBS = 50
LATENCY_BUDGET_S = 10
_NOOP_WARM_UP = 200


def map_name(chunksize: int) -> str:
    return f"{MAP} (chunksize {chunksize})"


def measure_first_lines(trial: Trial) -> None:
    with trial.warm_pool() as peer:
        _add_first_lines(trial, FIRST_LINE, peer)


def measure_idle_first_lines(trial: Trial) -> None:
    """The same with a pause before each call, in which processors sleep and caches go cold."""
    with trial.warm_pool() as peer:
        for _ in range(trial.plan.executor_idle_first_lines):
            time.sleep(IDLE_S)
            submitted_ns = time.monotonic_ns()
            trial.add(IDLE_FIRST_LINE, (peer.submit(tasks.first_line).result() - submitted_ns) / 1e6)


def measure_busy_first_lines(trial: Trial) -> None:
    """The same while another thread of this program holds the GIL as long as it can."""
    stopped = False

    def compute() -> None:
        while not stopped:
            pass

    thread = threading.Thread(target=compute, daemon=True)
    with trial.warm_pool() as peer:
        thread.start()
        try:
            _add_first_lines(trial, BUSY_FIRST_LINE, peer)
        finally:
            stopped = True
            thread.join()


def _add_first_lines(trial: Trial, measure: str, peer: Peer) -> None:
    for is_warm in _back_to_back(trial.plan.executor_first_lines):
        submitted_ns = time.monotonic_ns()
        line_ns = peer.submit(tasks.first_line).result()
        if is_warm:
            trial.add(measure, (line_ns - submitted_ns) / 1e6)


def _back_to_back(count: int) -> Iterator[bool]:
    """Yield False for each warm-up job and then True up to `count` times, without a pause, within a time budget."""
    until = time.monotonic() + LATENCY_BUDGET_S
    for number in range(WARM_UP_JOBS + count):
        yield number >= WARM_UP_JOBS
        if time.monotonic() > until:
            return


def measure_noops(trial: Trial) -> None:
    count = int(trial.plan.executor_noops * trial.peer_type.job_share)
    with trial.warm_pool() as peer:
        for future in [peer.submit(tasks.do_nothing) for _ in range(_NOOP_WARM_UP)]:
            future.result()
        for _ in trial.repeat(trial.plan.executor_rounds):
            cpu_s, began = _cpu_s(), time.monotonic()
            for future in [peer.submit(tasks.do_nothing) for _ in range(count)]:
                future.result()
            trial.add(NOOPS, count / (time.monotonic() - began))
            if trial.peer_type in LIBRARIES:  # processes of the others need not be below this one
                trial.add(CPU, (_cpu_s() - cpu_s) / count * 1e6)


def _cpu_s() -> float:
    """Return the processor time of this program and its descendants."""
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    # clock_getcpuclockid(3): the clock of a whole process, threads that have ended included
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def measure_map(trial: Trial) -> None:
    with trial.warm_pool() as peer:
        for _ in trial.repeat(trial.plan.executor_rounds):
            count = trial.plan.executor_noops
            trial.add(MAP_SINGLE, count / _map_s(peer, count, 1))
            if not trial.peer_type.has_chunks:
                trial.set_outcome(MAP, CANNOT)
                continue
            for chunksize in CHUNKSIZES:
                trial.add(map_name(chunksize), _map_s(peer, MAP_ITEMS, chunksize) * 1000)


def _map_s(peer: Peer, count: int, chunksize: int) -> float:
    began = time.monotonic()
    results = list(peer.map(tasks.square, range(count), chunksize))
    took_s = time.monotonic() - began
    assert results[-1] == (count - 1) ** 2
    return took_s


def measure_bytes(trial: Trial) -> None:
    data = os.urandom(BYTES_EACH_WAY)
    with trial.warm_pool() as peer:
        for _ in trial.repeat(trial.plan.executor_rounds):
            began = time.monotonic()
            returned = peer.submit(tasks.echo, data).result()
            trial.add(BYTES, (time.monotonic() - began) * 1000)
            assert returned == data


def measure_streams(trial: Trial) -> None:
    """Measure the rate from the first token to the last, and the delay of the first token of short streams."""
    for _ in trial.repeat(trial.plan.executor_rounds):
        with trial.warm_pool() as peer:
            peer.prepare_stream()
            count = 0
            first_at = 0.0
            for _token in peer.stream(trial.plan.executor_tokens):
                first_at = first_at or time.monotonic()
                count += 1
            trial.add(STREAM, count / (time.monotonic() - first_at))
            assert count == trial.plan.executor_tokens
    with trial.warm_pool() as peer:
        peer.prepare_stream()
        for is_warm in _back_to_back(trial.plan.executor_first_tokens):
            submitted_ns = time.monotonic_ns()
            for _token in peer.stream(1):
                if is_warm:
                    trial.add(FIRST_TOKEN, (time.monotonic_ns() - submitted_ns) / 1e6)


def measure_cold_start(trial: Trial) -> None:
    """Measure one value: a second pool of the same process would find helper processes of the first."""
    began = time.monotonic()
    with trial.peer_type() as peer:
        peer.submit(tasks.do_nothing).result()
        trial.add(COLD_START, (time.monotonic() - began) * 1000)


# ── a script's global array of 40 MB ──

GLOBALS = "60 jobs that use a script's global of 40 MB, after the first, ms"
GLOBALS_MEMORY = "memory of the machine for 60 jobs that use a script's global of 40 MB, MB"
GLOBALS_JOBS = 60
GLOBALS_ROUNDS = 20
_SCRIPT = """
import time
import numpy

TABLE = numpy.ones(5_000_000)

def look_up(number, pause_s=0):
    if pause_s:
        time.sleep(pause_s)
    return TABLE[number::1000].sum()
"""


def measure_globals(trial: Trial) -> None:
    """Run jobs of `__main__`, which a peer sends with their globals or has forked with them.

    The first job of each worker is not measured: there it imports numpy, or loads the global. Both workers run one at
    the same time, so that neither has its first among the measured ones.
    """
    script = vars(sys.modules["__main__"])
    exec(_SCRIPT, script)
    look_up, expected = script["look_up"], float(script["TABLE"][::1000].sum())
    peer_type = trial.peer_type.for_scripts()
    with peer_type() as peer:
        for _ in range(2):
            assert [each.result() for each in [peer.submit(look_up, 0, 0.2) for _ in range(WORKERS)]] == 2 * [expected]
        for _ in trial.repeat(GLOBALS_ROUNDS):
            began = time.monotonic()
            futures = [peer.submit(look_up, number) for number in range(GLOBALS_JOBS)]
            results = [future.result() for future in futures]
            trial.add(GLOBALS, (time.monotonic() - began) * 1000)
            assert results == GLOBALS_JOBS * [expected]
    script["TABLE"] = script["TABLE"].copy()
    with peer_type() as peer:
        for _ in range(2 * WORKERS):  # each has imported numpy
            peer.submit(abs, script["TABLE"][0]).result()
        before = _machine_bytes()
        futures = [peer.submit(look_up, number) for number in range(GLOBALS_JOBS)]
        used = [_machine_bytes() - before]
        assert [future.result() for future in futures] == results
        used.append(_machine_bytes() - before)
        trial.add(GLOBALS_MEMORY, max(used) / 1e6)


def _machine_bytes() -> int:
    """Return what this program and its descendants have of their own, and all shared memory of the machine."""
    shared = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:"))
    return (int(shared.split()[1]) << 10) + _memory_bytes("Pss_Anon:")


def _memory_bytes(kind: str) -> int:
    """Add up one line of smaps_rollup (proc(5)) of this program and its descendants."""
    total_kb = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with suppress(OSError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total_kb += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(kind))
    return total_kb << 10


# ── all measures ──

ALL: tuple[type[Peer], ...] = (*LIBRARIES, *SYSTEMS)
STOPPING: tuple[type[Peer], ...] = (*LIBRARIES, Celery, Rq, Ray)
"""Those that can go on after the death of a worker without a repeat of its job."""
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*LIBRARIES, StdlibSpawnPool, *SYSTEMS)}


@dataclass(frozen=True, slots=True)
class Measure:
    """A function to run, and the peers it is run for."""

    run: Callable[[Trial], None]
    peers: tuple[type[Peer], ...] = LIBRARIES
    is_repeated: bool = False
    """It yields one value per process: run it in several processes."""


MEASURES: dict[str, Measure] = {
    **{
        f"cancel {workload}": Measure(partial(measure_cancels, workload), LIBRARIES if cancel.is_large else ALL)
        for workload, cancel in CANCELS.items()
    },
    "timeout": Measure(measure_deadline, ALL),
    "after a kill": Measure(measure_after_kill),
    "grace": Measure(measure_graces, ALL),
    "children": Measure(measure_children, ALL),
    "owner": Measure(measure_owner_death, ALL),
    "types": Measure(measure_error_types, STOPPING),
    "first line": Measure(measure_first_lines, ALL),
    "first line, idle program": Measure(measure_idle_first_lines),
    "first line, busy program": Measure(measure_busy_first_lines),
    "no-ops": Measure(measure_noops, ALL),
    "map": Measure(measure_map),
    "bytes": Measure(measure_bytes),
    "globals": Measure(measure_globals),
    "stream": Measure(measure_streams),
    "cold": Measure(measure_cold_start, (*LIBRARIES, StdlibSpawnPool), is_repeated=True),
    "recovery": Measure(partial(measure_recovery, spares=1), STOPPING),
    "recovery, no spare": Measure(partial(measure_recovery, spares=0), (Killable,)),
    "memory": Measure(measure_memory, (*LIBRARIES, Celery, Dask, Ray)),
    "memory of a pool": Measure(measure_pool_memory),
}
