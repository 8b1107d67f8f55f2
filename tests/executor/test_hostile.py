"""Every hostile job as a call of an Executor whose workers are used again.

How its future ends, that done means gone, and that the next call finds a worker as ever.
"""

from __future__ import annotations

import concurrent.futures
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from support import (
    cooperative_jobs,
    forking_jobs,
    hostile_jobs,
    interfering_jobs,
    operation_jobs,
    output_jobs,
    processes,
    resource_hungry_jobs,
)
from support.certificate_checks import check_certificate, check_row, phases_of
from support.hostile_job_table import ACK_S, DELIVERY_GRACE_S, ONE_OF_EACH_KIND, TABLE, HostileCase
from support.job_helpers import process_name_of
from support.waiting import Pending, until

from killable import Executor, JobCancelled, JobFailed, JobTimedOut, OutOfMemory, WorkerCrashed, WorkerExited
from killable.supervisor.executor.futures import JobFuture

MODULES = (
    hostile_jobs,
    forking_jobs,
    output_jobs,
    cooperative_jobs,
    interfering_jobs,
    resource_hungry_jobs,
    operation_jobs,
)
AT_ONCE = 3
END_S = 30.0
"""No job of these takes so long to end."""

CLASSES: dict[str, tuple[type[Exception], type[Exception]]] = {
    "cancelled": (JobCancelled, CancelledError),
    "limit.memory": (OutOfMemory, MemoryError),
    "exit": (WorkerExited, BrokenProcessPool),
    "crash": (WorkerCrashed, BrokenProcessPool),
    "protocol": (WorkerCrashed, BrokenProcessPool),
}
"""Of the error, and what of the standard library it is."""
TIMED_OUT = (JobTimedOut, TimeoutError)
FAILED = (JobFailed, Exception)

OTHERWISE: dict[str, dict[str, Any]] = {
    "returns an unpicklable value": {"code": "", "error": {}},  # cloudpickle can send a lambda
    "emits an unpicklable value": {"error": {"type": "dict"}},  # and does not say which part of a value it cannot
}
"""What in a row is not so where values are pickled."""


def function_of(case: HostileCase) -> Callable[..., Any]:
    """Return the function of a hostile job: `@job` left it as it was."""
    (found,) = {getattr(module, case.type) for module in MODULES if hasattr(module, case.type)}
    function: Callable[..., Any] = found
    return function


def kinds(future: JobFuture[Any]) -> set[str]:
    """Return what kinds of events there are so far."""
    log = future._log
    return set() if log is None else {event.name for event in log.read(-1, 100)}


def settle(how: str, future: JobFuture[Any]) -> int:
    """Wait until a call is where it will stay; return the pid of its worker."""
    word = "log" if how == "printed" else "token"
    until(lambda: word in (seen := kinds(future)) or Pending((seen, future)), "it has said so")
    pid = future.pid
    assert pid is not None
    match how:
        case "computing":
            until(processes.computes(pid, 0.03), f"{pid} computes")
        case "busy":
            until(processes.computes(pid, 0.03, processes.cpu_s), f"{pid} computes")
        case "sitting" | "stopped":
            state = "S" if how == "sitting" else "T"
            until(processes.is_in_state(pid, state), f"{pid} is in state {state}")
            until(processes.is_in_state(pid, state), f"{pid} is in state {state}")  # and stays there
    return pid


class Ended(NamedTuple):
    future: JobFuture[Any]
    alive: list[processes.ProcessInfo]
    """What there was of the job when its future was done."""


def play(executor: Executor, case: HostileCase) -> Ended:
    """Call one hostile job; cancel it once it is where it will stay, unless it ends by itself."""
    view = executor.with_limits(**{"grace_s": case.grace_s, "ack_s": ACK_S, **case.limits})
    future = view.submit(function_of(case), **case.input)
    below: list[processes.ProcessInfo] = []
    alive: Future[list[processes.ProcessInfo]] = Future()

    def look_for_it(done: Future[Any]) -> None:
        """In the supervisor's thread, before anything else runs there: what is there now was there when it was done."""
        assert done.done()
        was_below = {(seen.pid, seen.started) for seen in below}
        tag = process_name_of(future.job_id)
        everyone = processes.all_processes()
        alive.set_result([seen for seen in everyone if seen.name == tag or (seen.pid, seen.started) in was_below])

    future.add_done_callback(look_for_it)
    if case.settle:
        below += processes.descendants(settle(case.settle, future))
        assert processes.named(process_name_of(future.job_id)), "what is looked for can be seen"
        assert future.running() and not future.done()
        assert future.cancel()
    return Ended(future, alive.result(END_S))


def check(case: HostileCase, ended: Ended, proof: str) -> None:
    """Check how a call ended against its row of the table."""
    future, error = ended.future, ended.future.error
    assert future.done() and not future.running()
    assert future.cancelled() == (case.code == "cancelled"), future
    assert ("" if error is None else error.code) == case.code, (future, error and error.facts)
    certificate = future.certificate
    assert certificate is not None and "tree_empty" in certificate, certificate
    check_certificate(certificate, case.code, "" if error is None else str(error.facts.get("by", "")))
    check_row(case, certificate, proof=proof, reused=True)
    kept = "exited" not in phases_of(certificate)
    left = [seen for seen in ended.alive if not (kept and seen.pid == future.pid)]
    assert not left, f"alive when it was done: {left}"
    if error is None:
        future.result(timeout=0)
        return
    cls, standard = TIMED_OUT if case.code.startswith("timeout.") else CLASSES.get(case.code, FAILED)
    assert type(error) is cls and isinstance(error, standard), error
    assert error.facts.items() >= case.error.items(), error.facts
    assert error.certificate == certificate and error.job_id == future.job_id
    with pytest.raises(Exception) as caught:
        future.result(timeout=0)
    raised = case.code in ("exception", "limit.files")
    assert raised or caught.value is error, "an exception of its own is raised as it was"


class Lane:
    """An Executor of two workers: one call waits in one of them all the time, the others share the other one."""

    def __init__(self, start_method: str) -> None:
        self.executor = Executor(max_workers=2, spares=0, start_method=start_method)

    def begin(self) -> None:
        self._neighbour = self.executor.submit(hostile_jobs.waits, where="event")
        until(self._neighbour.running, "the neighbour runs")
        ended = self.executor.submit(hostile_jobs.exits, code=0)
        concurrent.futures.wait([ended])
        assert ended.certificate is not None
        self._proof = str(ended.certificate["proof"])
        self._pid, self._usual = self._look_around()

    def _look_around(self) -> tuple[int | None, Any]:
        """Return who runs an innocent call, and what that finds there."""
        future = self.executor.submit(interfering_jobs.looks_around)
        found = future.result(END_S)
        return future.pid, found

    def fault_of(self, row: HostileCase) -> str:
        """Run one hostile call in the worker that has run an innocent one, and an innocent one after it."""
        case = replace(row, **OTHERWISE.get(row.what, {}))
        if case.await_phase:
            case = replace(case, grace_s=DELIVERY_GRACE_S)
        try:
            ended = play(self.executor, case)
            assert ended.future.pid == self._pid, "a worker that was used before"
            check(case, ended, self._proof)
            before = self._pid
            self._pid, found = self._look_around()
            assert found == self._usual
            assert (self._pid == before) == case.keeps_worker
            assert self._neighbour.running()
        except Exception as error:
            return f"── {case} ({case.type} {case.input})\n{''.join(traceback.format_exception(error))}"
        return ""

    def faults(self, rows: Iterable[HostileCase]) -> list[str]:
        try:
            self.begin()
            return [fault for row in rows if (fault := self.fault_of(row))]
        finally:
            self.executor.kill_workers()  # the neighbour would not end by itself


@pytest.mark.row("H5", "PEERS-3", "PEERS-4", "PEERS-8")
@pytest.mark.parametrize(
    ("start_method", "table"), [("fork", TABLE), ("spawn", ONE_OF_EACH_KIND)], ids=["fork", "spawn"]
)
def test_every_hostile_job_ends_as_its_row_says_and_hurts_no_other_call(
    start_method: str, table: Sequence[HostileCase], long_dump_waits: None
) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        lanes = [threads.submit(Lane(start_method).faults, table[n::AT_ONCE]) for n in range(AT_ONCE)]
        faults = [fault for lane in lanes for fault in lane.result()]
    assert not faults, f"{len(faults)} of {len(table)} hostile calls:\n" + "\n".join(faults)
