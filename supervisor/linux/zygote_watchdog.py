"""Detect that a process does not send an expected answer: it is asked once, then given up.

Runs in: supervisor. Behind `ports`.

There is one timer, and only while an answer is expected: an idle pool costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ANSWER_S = 5.0
"""How long a zygote may take to report a fork or an exit. A fork takes 16 ms with 1 GB preloaded. A silent zygote is
first continued, in case it was stopped. After as long again it is ended, and its jobs with it.
"""
REMIND_S, REMIND_S_MAX = 0.02, 1.0
"""How long after a kill or an exit its report may take until the zygote is asked to look, and then again after twice as
long: a tracer (ptrace(2)) hears of an exit first, and may keep it from the zygote. Mostly the report takes 1 ms.
"""
STOPS_MAX = 6
"""So many reminders in a row, in 1.3 s, find a stopped zygote or guard that was continued each time."""


class ZygoteWatchdog:
    """Calls `ask` after `answer_s` of silence, and `give_up` after as much again."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answer_s: float,
        ask: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._answer_s = answer_s
        self._ask = ask
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def expect(self) -> None:
        """Expect an answer from now on. If one was expected already, its timer keeps running."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._answer_s, self._on_silence)

    def heard(self, *, expects_more: bool) -> None:
        """Note that the process has sent any message, and so lives; `expects_more`: further answers are expected."""
        self.stop()
        if expects_more:
            self.expect()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_silence(self) -> None:
        self._timer = self._loop.call_later(self._answer_s, self._on_longer_silence)
        self._ask()

    def _on_longer_silence(self) -> None:
        self._timer = None
        self._give_up()
