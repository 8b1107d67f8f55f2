"""A critical section of a job, during which no stop or operation timeout is raised.

Runs in: worker.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol


class Raiser(Protocol):
    """Raises in the main thread (`sigterm_handler.StopSignal`)."""

    shields: int
    """The number of shields held; nothing is raised while it is over 0."""

    def raise_deferred(self) -> None: ...


class Shield:
    """Defers stops in the main thread. In other threads it does nothing, since nothing is raised there."""

    def __init__(self, raiser: Raiser | None) -> None:
        self._raiser = raiser if threading.current_thread() is threading.main_thread() else None

    def __enter__(self) -> None:
        if self._raiser is not None:
            self._raiser.shields += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._raiser is not None:
            self._raiser.shields -= 1
            self._raiser.raise_deferred()
