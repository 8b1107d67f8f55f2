"""The events of one job, gapless and in order, bounded in bytes; what is accepted is never lost and never changed.

Runs in: supervisor. Pure. Append and read are all that anyone needs of it; the journal keeps a sealed one as bytes.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, repeat, takewhile
from operator import itemgetter
from typing import NamedTuple

from killable.supervisor.models import JobEvent
from killable.workers.protocol.messages import dump_json

_NAME, _DATA = itemgetter(0), itemgetter(1)

Batch = list[tuple[str, bytes]]

OUTPUT_EVENTS = frozenset({"token", "log", "progress", "checkpoint"})
"""What a job can write, and so counts against `output_bytes`."""


RECENT_MAX = 2048
"""Events that stand ready for readers who keep up; when there are so many, the older half is packed."""


class EventLog:
    """Event ids are positions: the first is 0, unless earlier ones are lost (`first`). One thread appends; others may
    read meanwhile (`JobFuture.stdout`).

    The latest events are tuples, the older ones packed: as a tuple and a bytes object one token costs 130 bytes, and
    every tuple is one more that the garbage collector walks over.
    """

    __slots__ = (
        "_open",
        "_packed",
        "_starts",
        "bytes",
        "first",
        "output_bytes",
        "output_bytes_max",
        "overflowed",
        "tokens",
    )

    def __init__(self, output_bytes_max: int, first: int = 0) -> None:
        self.first = first
        """Id of the first event that is here."""
        self._open: tuple[int, Batch] = (first, [])
        """The id of the first recent event, and the recent events: a reader must never see the one of before a packing
        and the other of after it. So both are replaced at once, behind the block that takes the older ones.
        """
        self._packed: list[_Block] = []
        self._starts: list[int] = []
        """The id of each block's first event."""
        self.output_bytes_max = output_bytes_max
        self.output_bytes = 0
        self.bytes = 0
        self.tokens = 0
        self.overflowed = 0
        """Bytes of output that came after the bound and were counted only."""

    def __len__(self) -> int:
        """Return the next event's id; lost ones count."""
        start, recent = self._open
        return start + len(recent)

    @classmethod
    def decoded(cls, encoded: bytes, output_bytes_max: int, first: int = 0) -> EventLog:
        """Return the sealed log that was encoded. Raise ValueError, KeyError for what is none."""
        log = cls(output_bytes_max, first)
        place = 0
        while place < len(encoded):
            block, place = _Block.decoded(encoded, place)
            start = log._open[0]
            log._packed.append(block)
            log._starts.append(start)
            log._open = (start + len(block.ends), [])
            log.bytes += len(block.data)
            log.tokens += len(block.ends) if block.names == ("token",) else block.names.count("token")
        return log

    def encoded(self) -> Iterator[bytes]:
        """Yield the events of a sealed log as bytes, in parts that belong one behind the other. In any thread."""
        return map(_Block.encode, self._packed)

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
        self._open[1].append((name, data))
        self._pack_older()
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
        self._open[1].extend(batch)
        self._pack_older()
        return True

    def seal(self) -> None:
        """Nothing will be added any more: pack all of it."""
        self._pack(len(self._open[1]))

    def read(self, after: int, limit: int, bytes_max: int = sys.maxsize) -> list[JobEvent]:
        """Return up to `limit` events with ids above `after`, of about `bytes_max` together: one at least."""
        first = max(after + 1, self.first)
        found: list[JobEvent] = []
        while len(found) < limit and bytes_max > 0:
            events = self._from(first, limit - len(found), bytes_max)
            if not events:
                break
            if bytes_max < sys.maxsize:
                bytes_max -= sum(map(len, map(_DATA, events)))
            # Without a Python-level call per event: a reader of half a million tokens a second is made of this line.
            rows = zip(count(first), map(_NAME, events), map(_DATA, events), strict=False)
            found += map(tuple.__new__, repeat(JobEvent), rows)
            first += len(events)
        return found

    def _from(self, first: int, limit: int, bytes_max: int) -> Batch:
        """Return events from the id `first` on, as far as its block goes; the last may end behind `bytes_max`."""
        start, recent = self._open
        if first < start:
            place = bisect_right(self._starts, first) - 1
            return self._packed[place].events(first - self._starts[place], limit, bytes_max)
        events = recent[first - start : first - start + limit]
        if bytes_max < sys.maxsize:
            sizes = accumulate(map(len, map(_DATA, events)))
            del events[1 + sum(1 for _ in takewhile(bytes_max.__gt__, sizes)) :]
        return events

    def _pack_older(self) -> None:
        if len(self._open[1]) >= RECENT_MAX:
            self._pack(RECENT_MAX // 2)

    def _pack(self, number: int) -> None:
        if number:
            start, recent = self._open
            self._packed.append(_Block.of(recent[:number]))
            self._starts.append(start)
            self._open = (start + number, recent[number:])


class _Block(NamedTuple):
    """Events as one piece of memory: their data one after the other, and where each ends."""

    names: Sequence[str]
    """One name for all of them, or one each."""
    ends: array[int]
    data: bytes

    @classmethod
    def of(cls, events: Batch) -> _Block:
        names = tuple(map(_NAME, events))
        data = b"".join(map(_DATA, events))
        ends = array("I" if len(data) < 1 << 32 else "Q", accumulate(map(len, map(_DATA, events))))
        return cls(names[:1] if len(set(names)) == 1 else names, ends, data)

    def encode(self) -> bytes:
        head = dump_json([list(self.names), self.ends.typecode, len(self.ends), len(self.data)])
        return b"%b\n%b%b" % (head, self.ends.tobytes(), self.data)

    @classmethod
    def decoded(cls, encoded: bytes, place: int) -> tuple[_Block, int]:
        """Return the block that begins at a place, and where the next one does. Raise ValueError."""
        behind = encoded.index(b"\n", place) + 1
        names, typecode, number, size = json.loads(encoded[place:behind])
        ends = array(typecode)
        data_at = behind + number * ends.itemsize
        ends.frombytes(encoded[behind:data_at])
        if len(encoded) < data_at + size or len(names) not in (1, number):
            raise ValueError("a block of events that is cut short")
        return cls(tuple(names), ends, encoded[data_at : data_at + size]), data_at + size

    def events(self, first: int, limit: int, bytes_max: int) -> Batch:
        """Return those from a place on. Nothing else is copied: a reader in small steps does not pay for the block."""
        begin = self.ends[first - 1] if first else 0
        ends = self.ends[first : min(first + limit, bisect_left(self.ends, begin + bytes_max, lo=first) + 1)]
        names = repeat(self.names[0]) if len(self.names) == 1 else self.names[first : first + len(ends)]
        pieces = map(self.data.__getitem__, map(slice, (begin, *ends), ends))
        return list(zip(names, pieces, strict=False))
