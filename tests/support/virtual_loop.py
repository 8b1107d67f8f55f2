"""An event loop on virtual time: it never waits, its clock jumps to the next timer.

Runs in: the test process. A 30 s grace takes no longer than its callbacks; a hang is reported at once, because with
no timer and nothing ready nothing can ever happen.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1000.0
"""Not zero: a time of 0.0 that someone forgot to set shows."""
TURNS_MAX = 10_000
"""Turns of the loop without any time going by: more is a loop that feeds itself."""


class Hang(Exception):
    """Nothing is ready, nothing is scheduled; or the loop turns for ever at one moment."""


class _JumpingSelector(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # The pipe by which a loop wakes itself is always there, and nothing is to be woken that never waits.
        ready = super().select(0) if len(self.get_map()) > 1 else []
        if not ready and timeout != 0:
            self.loop.jump(timeout)
        elif (turns := self.loop.turns + 1) > TURNS_MAX:
            raise Hang(f"{turns} turns at {self.loop.time():.6f}")
        else:
            self.loop.turns = turns
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual_now = START_S
        self.turns = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual_now

    def jump(self, timeout: float | None) -> None:
        if timeout is None:
            waiting = "\n".join(f"  {task!r}" for task in asyncio.all_tasks(self)) or "  (no task)"
            raise Hang(f"at {self.time():.6f} nothing is scheduled any more, and these wait for it:\n{waiting}")
        self._virtual_now += timeout
        self.turns = 0

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are still going to fire."""
        return [handle for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


def run(main: Coroutine[Any, Any, T], loop: Callable[[], VirtualLoop] = VirtualLoop) -> T:
    """Run a coroutine on virtual time."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)
