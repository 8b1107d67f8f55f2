"""The readers of a live stream that wait for what comes next.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from killable.supervisor.jobs.wakeup_turns import Waiter, wait_among, wakeup_turns


class WaitingReaders:
    """Of one stream; they are woken in turns, a few in each turn of the event loop."""

    def __init__(self, stream: str) -> None:
        """`stream`: as what `wakeup_turns`, which know readers by job, know these."""
        self._stream = stream
        self._waiters: list[Waiter] = []

    def wake(self) -> None:
        turns = wakeup_turns()
        turns.add(self._stream, self._waiters, of_end=False)
        turns.serve()

    def changed(self) -> Coroutine[Any, Any, None]:
        """Return when they are woken."""
        return wait_among(self._waiters)
