"""Which node gets the next job of a pool.

Runs in: supervisor. Pure. Every operation takes O(log n) of the number of nodes, on average.
"""

from __future__ import annotations

import heapq

Place = tuple[int, int]


class Placement:
    """The nodes that have free slots of one pool.

    The one with the most free slots is the best, and of those the one that has the fewest jobs over all pools. With
    `packs` it is the one with the fewest free slots: other nodes become idle, and can be given back.
    """

    def __init__(self, *, packs: bool = False) -> None:
        self._packs = packs
        self._places: dict[str, Place] = {}
        """By node; only those with a free slot."""
        self._heap: list[tuple[Place, str]] = []
        """One entry for each of them, and others that are out of date."""

    @property
    def is_empty(self) -> bool:
        """Whether no node has a free slot."""
        return not self._places

    def note(self, node: str, free: int, running: int) -> None:
        """Set how many free slots a node has, and how many jobs run on it; without a free slot it gets none."""
        place = (free, running) if self._packs else (-free, running)
        if free <= 0:
            self._places.pop(node, None)
        elif self._places.get(node) != place:
            self._places[node] = place
            heapq.heappush(self._heap, (place, node))
            if len(self._heap) > 2 * len(self._places) + 64:
                self._heap = [(each, name) for name, each in self._places.items()]
                heapq.heapify(self._heap)

    def best(self) -> str | None:
        """Return the node that gets the next job; None: no node has a free slot."""
        while self._heap:
            place, node = self._heap[0]
            if self._places.get(node) == place:
                return node
            heapq.heappop(self._heap)
        return None
