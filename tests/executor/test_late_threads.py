"""A thread loses its processor, a caller's or the supervisor's, at the worst place: no call is lost by it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import executor_tasks
import pytest
from support import processes
from support.executor_lanes import stalled_supervisor_thread, wait_for_lanes
from support.waiting import until

from killable import Executor, WorkerKilled
from killable.supervisor.linux import oom_counter
from killable.supervisor.pools import lane
from killable.supervisor.pools.lane import Lane, LaneCall

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
    wait_for_lanes(executor, 2)


def test_a_call_whose_worker_dies_while_its_thread_is_late_is_not_forgotten(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent to a worker that is dead by then, which nobody has heard of."""
    warmed(executor, tmp_path)
    line_up = Lane.line_up
    dead: list[int] = []

    def line_up_late(lane: Lane, call: LaneCall) -> bool:
        monkeypatch.undo()
        dead.append(lane.process.pid or 0)
        os.kill(dead[0], signal.SIGKILL)
        until(processes.has_ended(dead[0]), "its worker is gone")
        return line_up(lane, call)

    monkeypatch.setattr(Lane, "line_up", line_up_late)
    with stalled_supervisor_thread(executor):
        future = executor.submit(executor_tasks.square, 3)
        assert future.pid == dead[0] and not future.running()
    assert future.result(END_S) == 9
    assert future.pid != dead[0]


def test_a_call_that_is_cancelled_before_its_worker_has_received_it_runs_nowhere(
    executor: Executor, tmp_path: Path
) -> None:
    warmed(executor, tmp_path)
    (pid, _) = wait_for_lanes(executor, 2)
    for each in wait_for_lanes(executor, 2):
        os.kill(each, signal.SIGSTOP)
    futures = [executor.submit(executor_tasks.say, str(tmp_path / "ran")) for _ in range(2)]
    assert not any(future.running() for future in futures) and pid in {future.pid for future in futures}
    assert all(future.cancel() and future.cancelled() for future in futures)
    for each in wait_for_lanes(executor, 2):
        os.kill(each, signal.SIGCONT)
    assert executor.submit(executor_tasks.square, 3).result(END_S) == 9
    assert not (tmp_path / "ran").exists()


@pytest.mark.code("killed_externally")
def test_who_was_short_of_memory_before_a_call_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 0\n")
    monkeypatch.setattr(oom_counter, "own_group_file", lambda: counter)
    monkeypatch.setattr(lane, "BEFORE_S", -1.0)  # as if the last reading were a second old
    with Executor(max_workers=1) as executor:
        wait_for_lanes(executor, 1)
        counter.write_text("oom_kill 1\n")
        future = executor.submit(executor_tasks.clean_up, str(tmp_path / "in"), str(tmp_path / "cleaned"))
        until((tmp_path / "in").exists, "it runs")
        os.kill(future.pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerKilled) as caught:
            future.result(END_S)
    assert caught.value.facts["oom"] == "no"
