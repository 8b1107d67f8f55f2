"""Polling for a condition, with a deadline. A failure reports the last state seen.

Apart from jobs, no other module of the tests sleeps. A condition returns a true value when it is met. Otherwise it
returns `Pending(state)`, and the last one appears in the failure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Sized
from typing import Any, TypeVar, overload

T = TypeVar("T")
S = TypeVar("S", bound=Sized)

POLL_S = 0.002
"""Short compared with what is waited for, long enough to leave the processor to it."""
POLL_S_MAX = 0.01
"""What has taken half a second is looked at so often only: many tests wait at a time, each beside what it waits for."""
STALL_S = 0.1
"""Where more has gone by between two looks, the machine stood still, and what is waited for with it."""
TIMEOUT_S = 50.0
"""Not a bound that a test is about: a condition that is not met by then never will be."""
LEAVE_S = float(os.environ.get("LEAVE_S", 20))
"""How long what a test has ended may take to go. It goes in milliseconds; a leak never does."""


class Pending:
    """A state that does not meet the condition yet: false, and shown in the failure."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return repr(self.state)


class Countdown:
    """What is left of a timeout, without the times in which the machine stood still."""

    def __init__(self, timeout_s: float) -> None:
        self._left_s = timeout_s
        self._began = self._looked = time.monotonic()
        self._fastest_s = float("inf")
        """A look that takes long by itself is no standstill."""

    def is_over(self) -> bool:
        """Count the time since the last call."""
        now = time.monotonic()
        took_s, self._looked = now - self._looked, now
        self._fastest_s = min(self._fastest_s, took_s)
        self._left_s -= min(took_s, max(STALL_S, 2 * self._fastest_s))
        return self._left_s <= 0

    @property
    def pause_s(self) -> float:
        """How long to wait for the next look: a fiftieth of what was waited so far, within bounds."""
        return min(max(POLL_S, (self._looked - self._began) / 50), POLL_S_MAX)


def until(condition: Callable[[], T | Pending], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """Return the condition's first true value. Raise AssertionError with the last state seen.

    Blocks: the event loop does not turn meanwhile.
    """
    patience = Countdown(timeout_s)
    while True:
        seen = condition()
        if seen:
            return seen  # type: ignore[return-value]  # a Pending is false
        if patience.is_over():
            raise AssertionError(_failure(what, timeout_s, seen))
        time.sleep(patience.pause_s)


@overload
async def until_async(
    condition: Callable[[], Coroutine[Any, Any, T | Pending]], what: str, timeout_s: float = TIMEOUT_S
) -> T: ...


@overload
async def until_async(condition: Callable[[], T | Pending], what: str, timeout_s: float = TIMEOUT_S) -> T: ...


async def until_async(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the condition's first true value, while the event loop turns. The condition may be a coroutine function.

    Raise AssertionError with the last state seen.
    """
    import asyncio  # here, because tasks of an Executor import this module: in a worker it takes as long as all else

    patience = Countdown(timeout_s)
    while True:
        seen: Any = condition()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return seen
        if patience.is_over():
            raise AssertionError(_failure(what, timeout_s, seen))
        await asyncio.sleep(patience.pause_s)


def until_empty(read: Callable[[], Sized], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until what `read` returns is empty; report what was left."""
    until(lambda: Pending(left) if len(left := read()) else True, what, timeout_s)


def _failure(what: str, timeout_s: float, seen: object) -> str:
    return f"{what}: not within {timeout_s:g} s; last seen: {seen!r}"
