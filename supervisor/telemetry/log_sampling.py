"""Noisy records: the first of each name in a period are written, and then one line says how many were left out.

Runs in: any thread; the caller has a lock. Pure: the caller says what time it is.

Sampled are records of the vocabulary that come with each request or job, and those of libraries, by their text before
its arguments. Never left out is how a job ended, unless it completed, nor an error of killable.
"""

from __future__ import annotations

import logging

from killable.supervisor.telemetry.log_cuts_and_redaction import OWN
from killable.supervisor.telemetry.log_vocabulary import EVENTS
from killable.workers.named_tuples import NamedTuple

PERIOD_S = 10.0
"""journald counts in 30 s; with the default of `log_burst` the log stays below what it takes in them (10,000)."""
NAMES_MAX = 1000
"""Names that are counted at once: a library may make its text anew each time. One more is written."""


class LeftOut(NamedTuple):
    """How many records of a name were left out in a period."""

    name: str
    number: int
    level: int


class _Count:
    __slots__ = ("began", "left_out", "level", "written")

    def __init__(self, began: float, level: int) -> None:
        self.began, self.level = began, level
        self.written = self.left_out = 0


class Sampling:
    """The counts of one log."""

    def __init__(self, burst: int) -> None:
        """`burst`: records of one name in PERIOD_S; 0: all."""
        self._burst = burst
        self._counts: dict[str, _Count] = {}
        self.is_new = False
        """Whether what was left out last is the first of its name in a period."""

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        """Return whether a record is written, and count it."""
        if not self._burst or not is_sampled(record):
            return True
        name = str(record.msg)
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) >= NAMES_MAX:
                self._counts = {name: each for name, each in self._counts.items() if now < each.began + PERIOD_S}
            if len(self._counts) >= NAMES_MAX:
                return True
            count = self._counts[name] = _Count(now, record.levelno)
        elif now >= count.began + PERIOD_S and not count.left_out:  # else `over` has to tell it first
            count.began, count.written = now, 0
        if count.written < self._burst:
            count.written += 1
            return True
        count.left_out += 1
        self.is_new = count.left_out == 1
        return False

    def over(self, now: float, *, at_end: bool = False) -> list[LeftOut]:
        """Return what was left out in periods that are over, and begin new ones; `at_end`: in all."""
        told = []
        for name, count in self._counts.items():
            if count.left_out and (at_end or now >= count.began + PERIOD_S):
                told.append(LeftOut(name, count.left_out, count.level))
                count.began, count.written, count.left_out = now, 0, 0
        return told

    def due(self) -> float | None:
        """Return the moment at which `over` has something to tell; None: nothing was left out."""
        return min((each.began + PERIOD_S for each in self._counts.values() if each.left_out), default=None)


def is_sampled(record: logging.LogRecord) -> bool:
    """Return whether a record may be left out."""
    if record.name.partition(".")[0] != OWN:
        return True
    event = EVENTS.get(str(record.msg))
    return event is not None and event.is_sampled and record.levelno < logging.ERROR
