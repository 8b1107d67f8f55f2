"""The longest turn of an event loop."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import pytest

from killable.api.cli.commands.ps import STALL
from killable.supervisor.telemetry import loop_turns
from killable.supervisor.telemetry.readiness import STALL_S, readiness


class Time:
    """What the loop's clock shows: the machine may give its real turns no processor for as long as it likes."""

    now = 100.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time passes by when a test says so, and when a loop waits for events."""
    time, wait = Time(), selectors.DefaultSelector.select

    def select(selector: selectors.DefaultSelector, timeout: float | None = None) -> Any:
        time.pass_by(timeout or 0.0)
        return wait(selector, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    monkeypatch.setattr(loop_turns, "monotonic", lambda: time.now)
    return time


def test_a_turn_counts_until_the_loop_looks_for_events_again(time: Time) -> None:
    async def see() -> None:
        await asyncio.sleep(0.06)  # waiting is no turn
        assert time.now > 100.05 and loop_turns.longest_s() == 0.0
        time.pass_by(0.06)
        await asyncio.sleep(0)
        assert loop_turns.longest_s() == pytest.approx(0.06)
        assert readiness((), queue_full="", draining=False, longest_turn_s=loop_turns.longest_s()) == (False, [])

    with asyncio.Runner(loop_factory=loop_turns.new_loop) as runner:
        runner.run(see())


def test_the_turns_of_a_start_are_forgotten(time: Time) -> None:
    async def see() -> float:
        await asyncio.sleep(0)
        time.pass_by(0.06)
        loop_turns.forget()
        await asyncio.sleep(0)
        return loop_turns.longest_s()

    with asyncio.Runner(loop_factory=loop_turns.new_loop) as runner:
        assert runner.run(see()) == 0.0


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
        await asyncio.sleep(0)
        return loop_turns.longest_s()

    assert asyncio.run(see()) == 0.0


def test_a_turn_of_more_than_half_a_second_makes_the_server_degraded() -> None:
    _, degraded = readiness((), queue_full="", draining=False, longest_turn_s=STALL_S + 0.25)
    assert degraded == ["the event loop stood still for 0.8 s"] and degraded[0].startswith(STALL), "`ps` knows it"
