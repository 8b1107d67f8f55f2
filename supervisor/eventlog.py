"""The events of one job, gapless and in order, bounded in bytes; what is accepted is never lost and never changed.

Runs in: supervisor. Pure. Append and read are all that anyone needs of it: a journal is a second implementation.
"""

from __future__ import annotations

from itertools import count, repeat
from operator import itemgetter

from killable.supervisor.job import Event

_NAME, _DATA = itemgetter(0), itemgetter(1)

Batch = list[tuple[str, bytes]]

OUTPUT_EVENTS = frozenset({"token", "log", "progress", "checkpoint"})
"""What a job can write, and so counts against `output_bytes`."""


class EventLog:
    """Event ids are positions: the first is 0."""

    __slots__ = ("_events", "bytes", "output_bytes", "output_bytes_max", "overflowed", "tokens")

    def __init__(self, output_bytes_max: int) -> None:
        self._events: Batch = []
        self.output_bytes_max = output_bytes_max
        self.output_bytes = 0
        self.bytes = 0
        self.tokens = 0
        self.overflowed = 0
        """Bytes of output that came after the bound and were counted only."""

    def __len__(self) -> int:
        return len(self._events)

    def append(self, name: str, data: bytes) -> bool:
        """Add one event; return False when it is output over the bound, which is then counted and dropped."""
        size = len(data)
        if name in OUTPUT_EVENTS:
            # After the first drop nothing more is taken, or the output would not be a prefix.
            if self.overflowed or self.output_bytes + size > self.output_bytes_max:
                self.overflowed += size
                return False
            self.output_bytes += size
            if name == "token":
                self.tokens += 1
        self.bytes += size
        self._events.append((name, data))
        return True

    def append_tokens(self, batch: Batch, size: int) -> bool:
        """Add tokens that arrived together (`size`: the sum of their data's lengths); the fast path of `append`."""
        if self.overflowed or self.output_bytes + size > self.output_bytes_max:
            for name, data in batch:
                self.append(name, data)
            return False
        self.output_bytes += size
        self.bytes += size
        self.tokens += len(batch)
        self._events.extend(batch)
        return True

    def read(self, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with ids above `after`."""
        first = after + 1
        events = self._events[first : first + limit]
        # Without a Python-level call per event: a reader of half a million tokens a second is made of this line.
        rows = zip(count(first), map(_NAME, events), map(_DATA, events), strict=False)
        return list(map(tuple.__new__, repeat(Event), rows))
