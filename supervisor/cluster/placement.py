"""Which node gets the next job of a pool.

Runs in: supervisor. Pure. A change of a node is noted once, whatever number of selectors it fits; who looks for a node
catches up with the nodes that have changed since the last look. So a job costs O(log n) of the number of nodes where
few selectors are in use, and at most a glance at each node of its selector where there are many.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable

Place = tuple[int, int]


class FreeSlots:
    """The nodes that have free slots of one pool.

    The one with the most free slots is the best, and of those the one that has the fewest jobs over all pools. With
    `packs` it is the one with the fewest free slots: other nodes become idle, and can be given back.
    """

    def __init__(self, *, packs: bool = False) -> None:
        self._packs = packs
        self.places: dict[str, Place] = {}
        """By node; only those with a free slot."""
        self.changes = 0
        self._changed: OrderedDict[str, int] = OrderedDict()
        """The number of each node's last change, the latest at the end."""

    @property
    def is_empty(self) -> bool:
        """Whether no node has a free slot."""
        return not self.places

    def note(self, node: str, free: int, running: int) -> None:
        """Set how many free slots a node has, and how many jobs run on it; without a free slot it gets none."""
        place = (free, running) if self._packs else (-free, running)
        if free <= 0:
            self.places.pop(node, None)  # whoever looks finds that what it knows is out of date
            self._changed.pop(node, None)
        elif self.places.get(node) != place:
            self.places[node] = place
            self.changes += 1
            self._changed[node] = self.changes
            self._changed.move_to_end(node)

    def changed_since(self, number: int, nodes: Collection[str]) -> Iterable[str]:
        """Return the nodes that have another number of free slots since the change of this number, as far as they are
        among `nodes`; or more of these, if that is less work.
        """
        changed: list[str] = []
        for node in reversed(self._changed):
            if self._changed[node] <= number:
                break
            if len(changed) == len(nodes):
                return nodes
            changed.append(node)
        return [node for node in changed if node in nodes]


class Placement:
    """The best of some nodes: of those that fit one selector."""

    def __init__(self, slots: FreeSlots, nodes: Iterable[str] = ()) -> None:
        self.nodes = set(nodes)
        self._slots = slots
        self._heap: list[tuple[Place, str]] = []
        """One entry at least for each of them that has a free slot, and others that are out of date."""
        self._seen = 0
        """The number of the last change that is in it."""

    def best(self) -> str | None:
        """Return the node that gets the next job; None: no node has a free slot."""
        self._catch_up()
        while self._heap:
            place, node = self._heap[0]
            if node in self.nodes and self._slots.places.get(node) == place:
                return node
            heapq.heappop(self._heap)
        return None

    def _catch_up(self) -> None:
        places = self._slots.places
        for node in self._slots.changed_since(self._seen, self.nodes):
            if node in places:
                heapq.heappush(self._heap, (places[node], node))
        self._seen = self._slots.changes
        if len(self._heap) > 2 * len(self.nodes) + 64:
            self._heap = [(places[node], node) for node in self.nodes if node in places]
            heapq.heapify(self._heap)
