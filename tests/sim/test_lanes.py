"""Every interleaving of lined up, begun, taken back, cancelled, stuck, dead and interrupted, as far as chance finds it.

A failure names its seed: `KILLABLE_LANE_SEEDS=12345 pytest tests/sim/test_lanes.py` plays it again.
"""

from __future__ import annotations

import os
import random

import pytest
from sim.lane_simulation import LaneSimulation

from killable.supervisor.pools import lane as lanes
from killable.supervisor.pools.lane import Lane

HISTORIES, STEPS = 400, 60


def seeds(count: int = HISTORIES) -> list[int]:
    asked = os.environ.get("KILLABLE_LANE_SEEDS")
    return [int(each) for each in asked.split(",")] if asked else [random.randrange(1 << 32) for _ in range(count)]


def play(seed: int) -> LaneSimulation:
    simulation = LaneSimulation(seed, workers=random.Random(seed).choice((1, 2, 3)))
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


def test_a_call_runs_once_or_not_at_all_and_a_cancel_ends_no_other() -> None:
    lined_up = 0
    for seed in seeds():
        simulation = play(seed)
        lined_up += sum(simulation.runs.values())
    assert lined_up > HISTORIES // 2 or os.environ.get("KILLABLE_LANE_SEEDS")


@pytest.mark.parametrize("fault", ["kills without taking back", "reads output first", "forgets an interrupt"])
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation is blind to none of these."""
    if fault == "kills without taking back":
        monkeypatch.setattr(Lane, "take_back", lambda lane: [])
    elif fault == "reads output first":
        monkeypatch.setattr(Lane, "settle", lambda lane, reopens=True: None)
    else:
        monkeypatch.setattr(Lane, "repair", lambda lane, call: False)
    monkeypatch.setattr(lanes, "LINE_S", 1e9)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        for seed in seeds(2000):
            play(seed)
