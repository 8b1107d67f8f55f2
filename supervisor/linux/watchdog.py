"""Notices that a process which owes an answer says nothing: it is asked once, then it is given up.

Runs in: supervisor. Part of the seam.

There is one timer, and only while an answer is owed: an idle pool costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """`ask` is called after `answer_s` of silence, `give_up` after as much again."""

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
        """From now on an answer is owed; if one was already, the silence is as old as it was."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._answer_s, self._on_silence)

    def heard(self, *, owes_more: bool) -> None:
        """It has said something, whatever it was: it lives."""
        self.stop()
        if owes_more:
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
