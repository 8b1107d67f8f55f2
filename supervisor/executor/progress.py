"""What a task of an Executor has reported with `ctx.progress`, and the callbacks that get it.

Runs in: supervisor. Its thread takes the reports, the relay's calls the callbacks, any thread of the program reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures._base import LOGGER
from functools import partial
from typing import Any

from killable.workers.named_tuples import NamedTuple


class Progress(NamedTuple):
    """What a task has reported with `ctx.progress`."""

    done: float
    total: float | None = None
    unit: str = ""


class ProgressReports:
    """The latest report of one task. A callback that is slower than the reports misses those in between.

    `output_relay` has a function run in the thread in which the output of tasks is shown.
    """

    def __init__(self, future: object, relay: Callable[[Callable[[], None]], None]) -> None:
        self.latest: Progress | None = None
        self._future = future
        self._relay = relay
        self._callbacks: tuple[Callable[[Progress], object], ...] = ()
        self._reported: Mapping[str, Any] | None = None
        self._is_due = False
        """Whether the callbacks are about to be called."""

    def add_callback(self, fn: Callable[[Progress], object]) -> None:
        self._callbacks = (*self._callbacks, fn)
        if self.latest is not None:
            self._relay(partial(self._call, fn, self.latest))

    def take(self, reported: Mapping[str, Any]) -> None:
        """Take a report; the same one again changes nothing."""
        if reported is self._reported:
            return
        self._reported = reported
        self.latest = Progress(reported.get("done", 0), reported.get("total"), reported.get("unit", ""))
        if self._callbacks and not self._is_due:
            self._is_due = True
            self._relay(self._call_all)

    def _call_all(self) -> None:
        """Call the callbacks with the latest report, in the relay's thread."""
        self._is_due = False  # first: a report that comes from here on is another call
        assert self.latest is not None
        for fn in self._callbacks:
            self._call(fn, self.latest)

    def _call(self, fn: Callable[[Progress], object], progress: Progress) -> None:
        try:
            fn(progress)
        except Exception:
            LOGGER.exception("exception calling progress callback for %r", self._future)
