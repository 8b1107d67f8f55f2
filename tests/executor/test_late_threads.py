"""A thread loses its processor, a caller's or the supervisor's, at the worst place: no call is lost by it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.executor_leases import stalled_supervisor_thread, wait_for_leases
from support.waiting import until

from killable import Executor, JobCancelled, WorkerKilled
from killable.supervisor.executor.pending_tasks import PendingTasks
from killable.supervisor.executor.task import Task
from killable.supervisor.linux import oom_counter
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.pools.lease import Lease

END_S = 100.0


@pytest.fixture
def executor() -> Iterator[Executor]:
    """Without a spare, whose fork would help out."""
    with Executor(max_workers=2, spares=0, grace_s=10) as made:
        yield made
        made.kill_workers()


def warmed(executor: Executor, tmp_path: Path) -> None:
    """Have two idle workers."""
    gate = tmp_path / "warm"
    futures = [executor.submit(executor_tasks.wait_for, str(gate)) for _ in range(2)]
    until(lambda: all(future.running() for future in futures), "both run")
    gate.touch()
    for future in futures:
        future.result(END_S)
    wait_for_leases(executor, 2)


def test_a_call_whose_worker_dies_while_its_thread_is_late_is_not_forgotten(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that submits first looks for it in vain, as another has it in its hands, and loses it again."""
    warmed(executor, tmp_path)
    match, give = PendingTasks._match, Task.give
    registered, taken, looked = threading.Event(), threading.Event(), threading.Event()
    given: list[Lease] = []

    def match_late(calls: PendingTasks) -> None:
        if threading.current_thread().name == "first":
            registered.set()
            taken.wait()
        match(calls)

    def give_late(call: Task, lease: Lease) -> bool:
        if threading.current_thread().name == "second":
            given.append(lease)
            if len(given) == 2:
                taken.set()
                looked.wait()
                os.kill(lease.process.pid or 0, signal.SIGKILL)
                until(lambda: lease.is_over, "its worker is gone")
        return give(call, lease)

    monkeypatch.setattr(PendingTasks, "_match", match_late)
    monkeypatch.setattr(Task, "give", give_late)
    futures: dict[str, Any] = {}

    def submit(name: str, *call: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: futures.update({name: executor.submit(*call)}), name=name)
        thread.start()
        return thread

    first = submit("first", executor_tasks.wait_for, str(tmp_path / "gate"))
    registered.wait()
    second = submit("second", executor_tasks.square, 3)
    first.join()
    looked.set()
    second.join()
    assert futures["second"].result(END_S) == 9, "while the first still has its worker"
    (tmp_path / "gate").touch()
    futures["first"].result(END_S)


def test_a_call_that_is_stopped_at_once_while_it_is_given_runs_nowhere(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker is killed for it before it has its order, which then finds no reader."""
    warmed(executor, tmp_path)
    send_now = WorkerProcess.send_now
    killed: list[int | None] = []
    stoppings: list[threading.Thread] = []

    def send_late(process: WorkerProcess, *order: Any) -> int | None:
        monkeypatch.undo()
        killed.append(process.pid)
        (future,) = executor._tasks._under_way
        stoppings.append(threading.Thread(target=lambda: future.cancel(grace_s=0)))
        stoppings[-1].start()
        until(processes.has_ended(process.pid or 0), "its worker is killed")
        return send_now(process, *order)

    monkeypatch.setattr(WorkerProcess, "send_now", send_late)
    with stalled_supervisor_thread(executor):
        future = executor.submit(executor_tasks.say, str(tmp_path / "ran"))
        assert [future.pid] == killed, "nor has another worker it"
    with pytest.raises(JobCancelled):
        future.result(END_S)
    stoppings[0].join()
    assert not (tmp_path / "ran").exists()


@pytest.mark.code("killed_externally")
def test_who_was_short_of_memory_before_a_call_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 0\n")
    monkeypatch.setattr(oom_counter, "_file_of_own_group", lambda: counter)
    with Executor(max_workers=1) as executor:
        wait_for_leases(executor, 1)
        counter.write_text("oom_kill 1\n")
        future = executor.submit(executor_tasks.clean_up, str(tmp_path / "in"), str(tmp_path / "cleaned"))
        until((tmp_path / "in").exists, "it runs")
        os.kill(future.pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerKilled) as caught:
            future.result(END_S)
    assert caught.value.facts["oom"] == "no"
