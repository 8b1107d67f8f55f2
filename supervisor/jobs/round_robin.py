"""Sources take turns, however much waits for each of them: requests of clients, and wake-ups of who waits for a job.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """One item of each source, then again. The urgent items of a source go before its others."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, tuple[deque[T], deque[T]]] = OrderedDict()
        """Urgent items and others, by source, in the order of their turns. No source is without an item."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def count(self, source: str) -> int:
        """Return how many items of a source wait."""
        return sum(map(len, self._lines.get(source, ())))

    def add(self, source: str, item: T, *, is_urgent: bool = False) -> None:
        """Add an item. A source that had none comes last in the round."""
        line = self._lines.get(source)
        if line is None:
            line = self._lines[source] = (deque(), deque())
        line[0 if is_urgent else 1].append(item)
        self._size += 1

    def take(self) -> T:
        """Remove and return the next item. Raise KeyError if there is none."""
        source, line = self._lines.popitem(last=False)
        urgent, others = line
        item = (urgent or others).popleft()
        if urgent or others:
            self._lines[source] = line
        self._size -= 1
        return item
