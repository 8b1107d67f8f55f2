"""When the clock calls back, in a loop whose waits last as much longer than asked as the kernel may let them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support import virtual_loop
from support.virtual_loop import VirtualLoop

from killable.supervisor.clock import Clock, Timer

ON_TIME_S = 0.0006
"""Five thousandths of the longest wait that is left to the loop as it is (SOON_S), and a little."""
WAITS_S = (0.0, 0.001, 0.09, 0.11, 0.2, 1.0, 30.0, 60.0, 3600.0, 30 * 86_400.0)


class SlackLoop(VirtualLoop):
    """Stretches what epoll_wait(2) is told as Linux may (fs/select.c): by a share, 50 µs at least, 0.1 s at most."""

    share = 0.001

    def jump(self, timeout: float | None) -> None:
        super().jump(None if timeout is None else timeout + min(max(timeout * self.share, 50e-6), 0.1))


class SlackLoopOfNicePeople(SlackLoop):
    share = 0.005


LOOPS = pytest.mark.parametrize("loop", [SlackLoop, SlackLoopOfNicePeople], ids=["nice 0", "nice 5"])


async def late_s(wait_s: float, *, by_the_clock: bool = True) -> float:
    loop, called = asyncio.get_running_loop(), asyncio.Event()
    when = loop.time() + wait_s
    timers = Clock(loop) if by_the_clock else loop
    timers.call_at(when, called.set)
    await called.wait()
    return loop.time() - when


def test_calls_with_one_step_share_a_timer_and_one_that_fails_keeps_none_from_being_made() -> None:
    made: list[tuple[int, float]] = []
    failed: list[str] = []

    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failed.append(context["message"]))
        clock, timers = Clock(loop), 0
        real = loop.call_at

        def call_at(when: float, callback: Callable[..., object], *args: object, **more: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += callback != again.set
            return real(when, callback, *args, **more)

        def beat(number: int, beats: int) -> bool:
            made.append((number, round(loop.time(), 3)))
            if number == 3:
                clock.call_at_beats(0.05, partial(beat, 5, 0))
            return sum(each[0] == number for each in made) < beats

        again = asyncio.Event()
        loop.call_at = call_at  # type: ignore[method-assign,assignment]
        await asyncio.sleep(0.02)
        timers = 0
        for number in range(4):
            clock.call_at_beats(0.05, partial(beat, number, 1 + number))
        clock.call_at_beats(0.05, lambda: bool(1 / 0))
        shared = timers
        await asyncio.sleep(1)
        return shared

    assert virtual_loop.run(scenario()) == 1
    assert len(failed) == 1
    began = min(at for number, at in made if number < 5)
    beats = {number: [round(at - began, 3) for each, at in made if each == number] for number in range(4)}
    assert beats == {0: [0.0], 1: [0.0, 0.05], 2: [0.0, 0.05, 0.1], 3: [0.0, 0.05, 0.1, 0.15]}
    assert began / 0.05 == pytest.approx(round(began / 0.05))
    assert sum(number == 5 for number, _ in made) == 4, "each that comes during a beat has the next"


def test_calls_that_are_cancelled_leave_no_timer() -> None:
    made: list[int] = []

    async def scenario() -> list[object]:
        loop = asyncio.get_running_loop()
        clock = Clock(loop)

        def cancels(number: int) -> bool:
            made.append(number)
            for each in beats:
                each.cancel()
            return True

        beats = [clock.call_at_beats(0.5, partial(cancels, number)) for number in range(3)]
        await asyncio.sleep(0.7)
        assert len(made) == 1, "also those that are due with the one that cancels them"
        beats = [clock.call_at_beats(0.5, partial(cancels, number)) for number in range(3)]
        for each in (*beats, *beats):
            each.cancel()

        ended, other = clock.call_at_beats(0.5, bool), clock.call_at_beats(0.5, lambda: True)
        await asyncio.sleep(0.7)
        other.cancel()
        ended.cancel()  # its row is gone
        next_one = clock.call_at_beats(0.5, lambda: True)
        ended.cancel()  # nor has it anything to do with the next one
        next_one.cancel()
        await asyncio.sleep(0)
        return list(loop.timers())  # type: ignore[attr-defined]

    assert virtual_loop.run(scenario()) == [] and len(made) == 1


@LOOPS
@pytest.mark.parametrize("wait_s", WAITS_S)
def test_no_wait_is_so_long_that_its_end_is_late(wait_s: float, loop: type[SlackLoop]) -> None:
    assert 0 <= virtual_loop.run(late_s(wait_s), loop) <= ON_TIME_S


@LOOPS
def test_a_timer_of_the_loop_itself_is_late(loop: type[SlackLoop]) -> None:
    """The control: what the clock is there for."""
    assert virtual_loop.run(late_s(60.0, by_the_clock=False), loop) > 0.05


@pytest.mark.parametrize("wait_s", WAITS_S)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.0])
def test_what_is_cancelled_is_not_called(wait_s: float, share: float) -> None:
    """Before its time, in any of the waits that lead there, and twice."""

    async def main() -> None:
        loop, calls = asyncio.get_running_loop(), list[float]()
        timer: Timer = Clock(loop).call_at(loop.time() + wait_s, lambda: calls.append(loop.time()))
        await asyncio.sleep(wait_s * share)
        timer.cancel()
        called = len(calls)
        timer.cancel()
        await asyncio.sleep(wait_s + 1.0)
        assert len(calls) == called
        assert called == 0 or (share == 1.0 or wait_s <= 0.001)

    virtual_loop.run(main())
