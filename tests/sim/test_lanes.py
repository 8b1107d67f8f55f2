"""Every interleaving of lined up, begun, taken back, cancelled, stuck, dead and interrupted, as far as chance finds it.

A failure names its seed: `KILLABLE_LANE_SEEDS=12345 pytest tests/sim/test_lanes.py` plays it again.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable

import pytest
from support.lane_simulation import LaneSimulation

from killable.supervisor.executor.futures import JobFuture

HISTORIES, STEPS = 400, 60


def seeds(count: int = HISTORIES) -> list[int]:
    asked = os.environ.get("KILLABLE_LANE_SEEDS")
    return [int(each) for each in asked.split(",")] if asked else [random.randrange(1 << 32) for _ in range(count)]


def play(seed: int, fault: str = "") -> LaneSimulation:
    simulation = LaneSimulation(seed, random.Random(seed).choice((1, 2, 3)), fault=fault)
    try:
        for _ in range(STEPS):
            simulation.step()
        simulation.settle()
        simulation.check()
    except BaseException as error:
        error.add_note(f"KILLABLE_LANE_SEEDS={seed}")
        raise
    finally:
        simulation.close()
    return simulation


def test_a_call_runs_once_or_not_at_all_in_its_turn_and_a_cancel_ends_no_other() -> None:
    runs = sum(sum(play(seed).runs.values()) for seed in seeds())
    assert runs > HISTORIES or os.environ.get("KILLABLE_LANE_SEEDS")


@pytest.mark.parametrize("ends_first", [False, True])
@pytest.mark.parametrize("grace_s", [0, None])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_a_cancel_that_is_interrupted_anywhere_leaves_no_call_without_an_end(
    number: int, grace_s: float | None, *, ends_first: bool
) -> None:
    """Of a call that runs, one that is lined up behind it, one that waits. `ends_first`: the one that runs ends before
    the supervisor's thread gets its turn.
    """
    for point in itertools.count(1):
        simulation = LaneSimulation(point, workers=1)
        (lane,) = simulation.queue._lanes
        lane._seconds = 0.0
        for _ in range(8):
            simulation.submit_call("plain")
        simulation.work()
        simulation.cancel_call(simulation.futures[number], grace_s, point=point)
        for _ in range(3 * ends_first):
            simulation.work()
            simulation.read_frames()
        simulation.settle()
        simulation.check()
        simulation.close()
        if not simulation.interrupted:  # it has fewer points
            break
    assert point > 10


@pytest.mark.parametrize(
    "fault",
    [
        "what was taken back is delivered",
        "a call is not passed over",
        "output is read unasked",
        "an interrupt divides a send",
        "an interrupt loses what was taken back",
    ],
)
def test_a_fault_of_the_other_side_is_seen(fault: str) -> None:
    with pytest.raises(AssertionError):
        for seed in seeds(20 * HISTORIES):
            play(seed, fault)


def test_a_call_that_is_stopped_before_it_is_in_the_queue_does_not_run() -> None:
    """As a finalizer may submit it, while another thread kills the workers."""
    simulation = LaneSimulation(1)
    queue = simulation.queue
    call = queue.supervisor_thread.call

    def stop_all_first(act: Callable[[], None]) -> None:
        queue.supervisor_thread.call = call
        queue.stop_all(0.0, "killed")
        call(act)

    future: JobFuture[int] = JobFuture(queue)
    simulation.kinds[f"{queue._prefix}-1"] = "plain"
    with queue.lock:  # whose holder may be further up the same stack
        queue.supervisor_thread.call = stop_all_first
        queue.submit("call", (abs, (1,), {}), {}, future)
    for _ in range(10):
        simulation.act()
        for worker in simulation.workers:
            worker.process.step()  # type: ignore[attr-defined]
    simulation.close()
    assert future.cancelled() and not simulation.runs
