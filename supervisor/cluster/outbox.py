"""What a node tells its head: numbered batches, each kept until it is acknowledged.

Runs in: supervisor, on a node. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from killable.supervisor.cluster.held_attempt import HeldAttempt
from killable.supervisor.cluster.messages import BATCH_BYTES_MAX, Header, pack

ITEM_BYTES = 128
"""What an item costs beside its data, about."""


class Outbox:
    """Of one node, for one head."""

    def __init__(self) -> None:
        self._seq = 0
        self._last = b""
        self._left: deque[tuple[Header, bytes | memoryview]] = deque()
        """Items that had no room in the last batch; the first may be the rest of one."""
        self._waiting: dict[int, HeldAttempt] = {}
        """Attempts with news, in the order of their turns."""

    def note(self, held: HeldAttempt) -> None:
        """Take note that an attempt has news."""
        self._waiting.setdefault(held.n, held)

    def add(self, header: Header) -> None:
        """Add an item of an attempt whose end is told."""
        self._left.append((header, b""))

    @property
    def has_news(self) -> bool:
        return bool(self._left or self._waiting)

    def is_old(self, ack: int) -> bool:
        """Return whether a poll acknowledges less than one that came before it."""
        return not self._seq - 1 <= ack <= self._seq

    def repeated(self, ack: int) -> bytes | None:
        """Return the last batch if this poll shows that it was not received."""
        return self._last if ack == self._seq - 1 else None

    def batch(self, more: Header) -> bytes:
        """Return the next batch, with the members of `more` in its header. The last one was received."""
        headers: list[Header] = []
        blobs: list[bytes | memoryview] = []
        for header, blob in self._items():
            headers.append(header)
            blobs.append(blob)
        self._seq += 1
        self._last = pack({**more, "seq": self._seq, "items": headers}, blobs)
        return self._last

    def _items(self) -> Iterator[tuple[Header, bytes | memoryview]]:
        """Yield what goes into the next batch: first the transitions of all attempts, then data, in turns."""
        room = BATCH_BYTES_MAX
        for held in self._waiting.values():
            yield from held.take_notes()
        while room > 0 and (self._left or self._waiting):
            if not self._left:
                self._left.extend(self._take_turn(room))
                continue
            header, blob = self._left.popleft()
            if len(blob) > room:
                rest = memoryview(blob)  # a slice of bytes would copy what is left, once for each batch
                self._left.appendleft((header, rest[room:]))
                header, blob = header | {"is_cut": True}, rest[:room]
            room -= len(blob) + ITEM_BYTES
            yield header, blob

    def _take_turn(self, bytes_max: int) -> list[tuple[Header, bytes]]:
        held = self._waiting.pop(next(iter(self._waiting)))
        items = list(held.take(bytes_max))
        if held.has_news:
            self._waiting[held.n] = held  # behind the others
        return items
