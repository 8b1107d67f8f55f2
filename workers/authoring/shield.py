"""A critical section: what is to be raised in the job waits for its end.

Runs in: worker.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol


class Raiser(Protocol):
    """What raises in the main thread (`stop_signal.Doorbell`)."""

    shields: int
    """How many are held; nothing is raised while there is one."""

    def raise_deferred(self) -> None: ...


class Shield:
    """`with ctx.shield():` in the main thread; in other threads, in which nothing is ever raised, it does nothing."""

    def __init__(self, raiser: Raiser | None) -> None:
        self._raiser = raiser if threading.current_thread() is threading.main_thread() else None

    def __enter__(self) -> None:
        if self._raiser is not None:
            self._raiser.shields += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._raiser is not None:
            self._raiser.shields -= 1
            self._raiser.raise_deferred()
