"""The longest turn of an event loop."""

from __future__ import annotations

import asyncio

import pytest

from killable.supervisor.clock import monotonic
from killable.supervisor.telemetry import loop_turns
from killable.supervisor.telemetry.readiness import STALL_S, readiness


def busy(seconds: float) -> None:
    end = monotonic() + seconds
    while monotonic() < end:
        pass


def test_a_turn_counts_until_the_loop_looks_for_events_again() -> None:
    async def see() -> None:
        await asyncio.sleep(0.06)  # waiting is no turn
        assert loop_turns.longest_s() < 0.05
        busy(0.06)
        await asyncio.sleep(0)
        assert loop_turns.longest_s() >= 0.06
        assert readiness((), queue_full="", draining=False, longest_turn_s=loop_turns.longest_s()) == (False, [])

    with asyncio.Runner(loop_factory=loop_turns.new_loop) as runner:
        runner.run(see())


def test_the_turns_of_a_start_are_forgotten() -> None:
    async def see() -> float:
        await asyncio.sleep(0)
        busy(0.06)
        loop_turns.forget()
        await asyncio.sleep(0)
        return loop_turns.longest_s()

    with asyncio.Runner(loop_factory=loop_turns.new_loop) as runner:
        assert runner.run(see()) < 0.06


def test_an_old_turn_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop_turns, "monotonic", lambda: now)
    selector = loop_turns.MeasuredSelector()
    with selector:
        selector.select(0)
        now += 3.0
        selector.select(0)
        now += loop_turns.WINDOW_S + 1
        assert selector.longest_s() == 3.0
        now += loop_turns.WINDOW_S + 1
        assert selector.longest_s() == 0.0


def test_a_loop_that_is_not_measured_has_no_longest_turn() -> None:
    async def see() -> float:
        busy(0.001)
        return loop_turns.longest_s()

    assert asyncio.run(see()) == 0.0


def test_a_turn_of_more_than_half_a_second_makes_the_server_degraded() -> None:
    _, degraded = readiness((), queue_full="", draining=False, longest_turn_s=STALL_S + 0.25)
    assert degraded == ["the event loop stood still for 0.8 s"]
