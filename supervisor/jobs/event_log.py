"""The events of one job, gapless and in order, bounded in bytes. An accepted event is never lost and never changed.

Runs in: supervisor. Pure. Most code needs only `append` and `read`; the journal stores a sealed log as bytes.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, repeat, takewhile
from operator import itemgetter, sub

from killable.supervisor.models import JobEvent
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

_NAME, _DATA = itemgetter(0), itemgetter(1)

Batch = list[tuple[str, bytes]]

OUTPUT_EVENTS = frozenset({"token", "log", "progress", "checkpoint", "file"})
"""Events that a job writes itself, and that count against `output_bytes`."""
BETWEEN_ATTEMPTS = frozenset({"retrying", "restored"})
"""Events after which another attempt begins: what was streamed before is void."""


RECENT_MAX = 2048
"""Events kept unpacked, for readers that keep up. When there are so many, the older half is packed."""

EVENTS_PER_BATCH = 1024
BYTES_PER_BATCH = 64 << 10
"""Limits of one read of events, which are encoded in one turn of the loop: of small ones about 0.3 ms. A slow reader
holds no more.
"""
LARGE_BYTES = 64 << 10
"""Data of this size is not copied for a reader."""


class EventLog:
    """Event ids are positions: the first is 0, or `first` when earlier events are lost. One thread appends; others may
    read at the same time (`JobFuture.stdout`).

    The latest events are tuples, older ones are packed: a token costs 130 bytes as a tuple and a bytes object, and the
    garbage collector visits every tuple.
    """

    __slots__ = (
        "_open",
        "_packed",
        "_starts",
        "attempt_first",
        "bytes",
        "first",
        "output_bytes",
        "output_bytes_max",
        "overflowed",
        "tokens",
    )

    def __init__(self, output_bytes_max: int, first: int = 0) -> None:
        self.first = first
        """Id of the first event in this log."""
        self._open: tuple[int, Batch] = (first, [])
        """The id of the first recent event, and the recent events. Both are replaced at once, after the older events
        are packed: a reader in another thread must never see the id from before a packing and the events from after.
        """
        self._packed: list[_Block] = []
        self._starts: list[int] = []
        """The id of each block's first event."""
        self.output_bytes_max = output_bytes_max
        self.output_bytes = 0
        self.bytes = 0
        self.tokens = 0
        """Of the latest attempt."""
        self.attempt_first = first
        """Id of the first event of the latest attempt, which may still come."""
        self.overflowed = 0
        """Bytes of output over the bound, which were only counted."""

    def __len__(self) -> int:
        """Return the id of the next event; lost events count."""
        start, recent = self._open
        return start + len(recent)

    @classmethod
    def decode(cls, encoded: bytes, output_bytes_max: int, first: int = 0) -> EventLog:
        """Return a sealed log from the bytes of `encoded`. Raise ValueError or KeyError for other bytes."""
        log = cls(output_bytes_max, first)
        place = 0
        while place < len(encoded):
            block, place = _Block.decode(encoded, place)
            start = log._open[0]
            log._packed.append(block)
            log._starts.append(start)
            log._open = (start + len(block.ends), [])
            log.bytes += len(block.data)
            log._count(block, start)
        return log

    def _count(self, block: _Block, start: int) -> None:
        """Count the output in the next block, which begins with this id, and the tokens of the latest attempt."""
        if block.names == ("token",):  # as mostly
            self.tokens += len(block.ends)
            self.output_bytes += len(block.data)
            return
        names = block.names if len(block.names) > 1 else (*block.names,) * len(block.ends)
        between = [place for place, name in enumerate(names) if name in BETWEEN_ATTEMPTS]
        if between:
            self.attempt_first, self.tokens = start + between[-1] + 1, 0
        self.tokens += names[between[-1] + 1 if between else 0 :].count("token")
        sizes = map(sub, block.ends, (0, *block.ends))
        self.output_bytes += sum(size for name, size in zip(names, sizes, strict=True) if name in OUTPUT_EVENTS)

    def encoded(self) -> Iterator[bytes]:
        """Yield the events of a sealed log as bytes, in parts to be joined in order. May run in any thread."""
        return map(_Block.encode, self._packed)

    def encode_some(self, first: int, limit: int, bytes_max: int) -> tuple[int, bytes]:
        """Return the id after the last of up to `limit` events from the id `first` on, of about `bytes_max` in total,
        and these events as bytes; they may be joined with others.
        """
        events = self.read(first - 1, limit, bytes_max)
        return first + len(events), _Block.of([(name, data) for _, name, data in events]).encode()

    @staticmethod
    def decode_some(encoded: bytes) -> Batch:
        """Return the events that `encode_some` has encoded. Raise ValueError or KeyError for other bytes."""
        block, _ = _Block.decode(encoded, 0)
        return block.events(0, len(block.ends), sys.maxsize)

    def append(self, name: str, data: bytes) -> bool:
        """Add one event. Return False when it is output over the bound, which is then only counted."""
        size = len(data)
        if name in OUTPUT_EVENTS:
            # After the first drop no output is accepted, so that what is kept is a prefix.
            if self.overflowed or self.output_bytes + size > self.output_bytes_max:
                self.overflowed += size
                return False
            self.output_bytes += size
            if name == "token":
                self.tokens += 1
        self.bytes += size
        self._open[1].append((name, data))
        if name in BETWEEN_ATTEMPTS:
            self.attempt_first, self.tokens = len(self), 0
        self._pack_older()
        return True

    def append_output(self, batch: Batch, size: int) -> bool:
        """Add tokens, or lines, that came together, with `size` bytes of data in total: the fast path of `append`."""
        if self.overflowed or self.output_bytes + size > self.output_bytes_max:
            for name, data in batch:
                self.append(name, data)
            return False
        self.output_bytes += size
        self.bytes += size
        if batch and batch[0][0] == "token":
            self.tokens += len(batch)
        self._open[1].extend(batch)
        self._pack_older()
        return True

    def seal(self) -> None:
        """Pack all events. Nothing may be appended after this."""
        self._pack(len(self._open[1]))

    def read(self, after: int, limit: int, bytes_max: int = sys.maxsize) -> list[JobEvent]:
        """Return up to `limit` events with ids above `after`, of about `bytes_max` in total, but at least one."""
        first = max(after + 1, self.first)
        found: list[JobEvent] = []
        while len(found) < limit and bytes_max > 0:
            events = self._read_block(first, limit - len(found), bytes_max)
            if not events:
                break
            if bytes_max < sys.maxsize:
                bytes_max -= sum(map(len, map(_DATA, events)))
            # No Python-level call per event: at half a million tokens a second this line is most of a reader's time.
            rows = zip(count(first), map(_NAME, events), map(_DATA, events), strict=False)
            found += map(tuple.__new__, repeat(JobEvent), rows)
            first += len(events)
        return found

    def read_data(self, name: str, after: int, limit: int) -> tuple[int, list[bytes]]:
        """Return the id of the last of up to `limit` events above `after`, and the data of those with this name."""
        first = max(after + 1, self.first)
        events = self._read_block(first, limit, sys.maxsize)
        return first + len(events) - 1, [data for each, data in events if each == name]

    def _read_block(self, first: int, limit: int, bytes_max: int) -> Batch:
        """Return events from the id `first` on, within its block; the last one may exceed `bytes_max`."""
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
        while len(self._open[1]) >= RECENT_MAX:
            self._pack(RECENT_MAX // 2)

    def _pack(self, number: int) -> None:
        if number:
            start, recent = self._open
            first = start
            for part in _apart(recent[:number]):
                self._packed.append(_Block.of(part))
                self._starts.append(first)
                first += len(part)
            self._open = (start + number, recent[number:])


def _apart(events: Batch) -> Iterator[Batch]:
    """Yield the events in order, each large one on its own: what is read of a block is copied for each reader, but for
    the data of a block with one event.
    """
    if max(map(len, map(_DATA, events)), default=0) <= LARGE_BYTES:  # as mostly
        yield events
        return
    begin = 0
    for place, (_, data) in enumerate(events):
        if len(data) > LARGE_BYTES:
            if begin < place:
                yield events[begin:place]
            yield [events[place]]
            begin = place + 1
    if begin < len(events):
        yield events[begin:]


class _Block(NamedTuple):
    """Events in one piece of memory: their data joined, and the offset where each ends."""

    names: Sequence[str]
    """One name for all events, or one for each."""
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
    def decode(cls, encoded: bytes, place: int) -> tuple[_Block, int]:
        """Return the block at the offset `place`, and the offset of the next one. Raise ValueError."""
        behind = encoded.index(b"\n", place) + 1
        names, typecode, number, size = json.loads(encoded[place:behind])
        ends = array(typecode)
        data_at = behind + number * ends.itemsize
        ends.frombytes(encoded[behind:data_at])
        if len(encoded) < data_at + size or len(names) not in (1, number):
            raise ValueError("a block of events that is cut short")
        return cls(tuple(names), ends, encoded[data_at : data_at + size]), data_at + size

    def events(self, first: int, limit: int, bytes_max: int) -> Batch:
        """Return events from the index `first` on. Only these are copied, so that small reads stay cheap."""
        begin = self.ends[first - 1] if first else 0
        ends = self.ends[first : min(first + limit, bisect_left(self.ends, begin + bytes_max, lo=first) + 1)]
        names = repeat(self.names[0]) if len(self.names) == 1 else self.names[first : first + len(ends)]
        pieces = map(self.data.__getitem__, map(slice, (begin, *ends), ends))
        return list(zip(names, pieces, strict=False))
