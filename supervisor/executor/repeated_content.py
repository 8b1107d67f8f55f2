"""Large pieces of an Executor's tasks (arrays, tables): each is in shared memory once, for all tasks that bring it.

Runs in: any thread of the program.

A piece is recognised by its place in memory. Whether its content is still that of the copy is told by the kernel, which
watches the memory for writes, or else by a comparison. So a task always has the values as of its submit.

A copy lives as long as a task needs it. One that has been brought again lives on with the object that it is of, so that
the next task finds it even if none is under way.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from killable.workers.protocol.message_bounds import SHARED_PARTS_MAX
from killable.workers.protocol.pickling import Pickled
from killable.workers.protocol.shared_memory import SharedPart, SharedParts

if TYPE_CHECKING:
    from types import ModuleType

    from killable.supervisor.linux.memory_writes import WriteWatch

PART_BYTES_MIN = 256 << 10
"""Smaller pieces stay in the task's own input."""
PLACES_MAX = 64
"""The most pieces that are recognised: those that were brought last."""
KEPT_BYTES_MAX = 1 << 30
"""The most bytes of copies that no task needs at the moment."""
CANDIDATES_MAX = 4
"""The most copies with which a piece at a new place is compared."""
CHANGES_MAX = 2
"""A piece that was found changed so often in a row is watched no longer: the first write to each page costs a fault."""

_Key = tuple[int, int]
"""Address and size in bytes."""


class _Place:
    """What was found at one place in memory when a task last brought it."""

    __slots__ = ("changes", "edges", "is_watched", "key", "owner", "part")

    def __init__(self, key: _Key, owner: weakref.ref[object] | None, changes: int) -> None:
        self.key = key
        self.is_watched = False
        """Whether all writes since then are noticed."""
        self.edges = b"", b""
        """What is before and behind the whole pages, which cannot be watched, as it is in the copy."""
        self.part: weakref.ref[SharedPart] | None = None
        """The copy; None: there is none yet."""
        self.changes = changes
        """How often in a row it was changed."""
        self.owner = owner
        """The object whose memory it is; None: there can be no weak reference to it."""

    @property
    def copy(self) -> SharedPart | None:
        return None if self.part is None else self.part()

    def has_edges_of(self, buffer: memoryview) -> bool:
        head, tail = self.edges
        return bytes(buffer[: len(head)]) == head and bytes(buffer[len(buffer) - len(tail) :]) == tail


class TaskContent:
    """The large pieces of one task: while it is pickled, and then."""

    __slots__ = ("_identified", "_repeated")

    def __init__(self, repeated: RepeatedContent) -> None:
        self._repeated = repeated
        self._identified: dict[int, tuple[object, SharedPart]] = {}
        """The pieces that were identified, by `id`, and their copies."""

    def identify(self, piece: bytes | memoryview) -> bytes:
        """Return a hash of a large piece of a global. That of a piece that is unchanged is known already."""
        try:
            if _owner_of(memoryview(piece)) is None:
                return _hash_of(piece)  # it may be at another place each time
            part = self._repeated.part_of(piece, lasts=True)
            if not part.digest:
                part.digest = _hash_of(memoryview(part.map()))
        except (OSError, ImportError):
            return _hash_of(piece)
        self._identified[id(piece)] = piece, part
        return part.digest

    def copies_of(self, pieces: Iterable[bytes | memoryview]) -> list[SharedPart] | None:
        """Return the copies of pieces that were all identified, else None."""
        found = []
        for piece in pieces:
            known = self._identified.get(id(piece))
            if known is None:
                return None
            found.append(known[1])
        return found

    def share(self, packed: Pickled) -> SharedParts | None:
        """Move large pieces out of the pickled task into shared memory; return the memory. None: there are none.

        A piece for which there is no memory or descriptor stays in the value.
        """
        pieces = packed.pieces_over(PART_BYTES_MIN)
        if len(pieces) > SHARED_PARTS_MAX:
            largest = sorted(pieces, key=lambda number: -len(pieces[number]))[:SHARED_PARTS_MAX]
            pieces = {number: pieces[number] for number in sorted(largest)}
        shared: dict[int, SharedPart] = {}
        for number, piece in pieces.items():
            try:
                _, known = self._identified.get(id(piece), (None, None))
                shared[number] = self._repeated.part_of(piece) if known is None else known
            except (OSError, ImportError):
                pass  # it stays in the value
        packed.leave_out(shared.keys())
        return SharedParts(shared.values()) if shared else None


class RepeatedContent:
    """The large pieces that an Executor's tasks have brought. Closed with the Executor."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer of the program may run while it is held, and submit
        self._places: dict[_Key, _Place] = {}
        self._kept: dict[_Key, SharedPart] = {}
        """Copies that live on without a task. In both dicts the latest is the last one."""
        self._watch: WriteWatch | None = None
        self._is_closed = self._watch_asked = False
        self.looked_at: object | None = None
        """The definitions of the latest small call, of which the program was warned if they are large."""

    def part_of(self, piece: bytes | memoryview, *, lasts: bool = False) -> SharedPart:
        """Return the copy of a piece; `lasts`: it will be brought again. Raise OSError if there can be none."""
        part, is_same = self._part_of(piece, lasts)
        if is_same:
            part.gather()
        return part

    def _part_of(self, piece: bytes | memoryview, lasts: bool) -> tuple[SharedPart, bool]:
        """Return the copy of a piece, and whether the same was brought before. Raise OSError."""
        if self._is_closed:
            raise OSError("the executor has been shut down")
        memory_writes = _memory_writes()
        buffer = memoryview(piece)
        key = memory_writes.address_of(buffer), buffer.nbytes
        with self._lock:
            before = self._places.get(key)
            last = None if before is None else before.copy
            watch = self._watch
            is_unwritten = before is not None and before.is_watched and watch is not None and watch.is_unwritten(*key)
            if before is not None and last is not None and is_unwritten and before.has_edges_of(buffer):
                before.changes = 0
                self._keep(before, last)
                return last, True
            others = self._copies_of_size(buffer.nbytes) if last is None else [last]
            kept = self._kept
            place = self._begin(before, key, _owner_of(buffer, lambda _: kept.pop(key, None)))
        copy = next((other for other in others if _is_equal(other, buffer)), None)
        # Without a copy and a watch nobody knows: what comes from the same place is taken for the same, and kept.
        is_same = copy is not None or (before is not None and last is None and (is_unwritten or not before.is_watched))
        if copy is None:
            copy = SharedPart.of(buffer)
        with self._lock:
            if self._places.get(key) is place:  # else another thread has brought it meanwhile
                place.part = weakref.ref(copy)
                place.edges = memory_writes.edges_of_copy(*key, copy.descriptor)
                if is_same:
                    place.changes = 0
                elif before is not None:
                    place.changes += 1
                    self._kept.pop(key, None)
                if is_same or lasts:
                    self._keep(place, copy)
        return copy, is_same

    def _copies_of_size(self, size: int) -> list[SharedPart]:
        """Return the latest copies of this size, for a piece that is at no known place: it may be made anew each time,
        as the pickles of large dicts are.
        """
        places = reversed(list(self._places.values()))
        copies = (place.copy for place in places if place.key[1] == size)
        return list(itertools.islice(dict.fromkeys(copy for copy in copies if copy is not None), CANDIDATES_MAX))

    def _begin(self, before: _Place | None, key: _Key, owner: weakref.ref[object] | None) -> _Place:
        """Watch a place anew. This is done before its content is read, so that no write in between goes unnoticed."""
        place = _Place(key, owner, changes=0 if before is None else before.changes)
        self._places.pop(key, None)
        self._places[key] = place
        watch = self._write_watch()
        if watch is not None:
            for other in list(self._places.values()):
                if other is not place and other.key[0] < sum(key) and key[0] < sum(other.key):
                    other.is_watched = False  # its writes until now are forgotten
            lasts = before is not None or owner is not None
            place.is_watched = lasts and place.changes < CHANGES_MAX and watch.watch(*key)
        while len(self._places) > PLACES_MAX:
            oldest = next(iter(self._places))
            del self._places[oldest]
            self._kept.pop(oldest, None)
            if watch is not None:
                watch.forget(*oldest)
        return place

    def _write_watch(self) -> WriteWatch | None:
        if not self._watch_asked:
            self._watch_asked = True
            with contextlib.suppress(OSError):  # contents are compared instead
                self._watch = _memory_writes().WriteWatch()
        return self._watch

    def _keep(self, place: _Place, copy: SharedPart) -> None:
        """Let a copy live on as long as the object that it is of."""
        if next(reversed(self._kept), None) == place.key and self._kept.get(place.key) is copy:
            return  # it is the latest already
        self._kept.pop(place.key, None)
        if place.owner is not None and place.owner() is not None:
            self._kept[place.key] = copy
            while sum(map(len, list(self._kept.values()))) > KEPT_BYTES_MAX:
                self._kept.pop(next(iter(self._kept)), None)

    def close(self) -> None:
        """Let go of all copies and watch nothing any more. Also in a fork of the program. May be called again."""
        self._is_closed = True
        self._places.clear()
        self._kept.clear()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()


def _owner_of(buffer: memoryview, on_end: Callable[[object], object] | None = None) -> weakref.ref[object] | None:
    """Refer to the object that owns the memory, behind views, as numpy has them; None: bytes, mmap and others."""
    owner: object = buffer.obj
    while (base := getattr(owner, "base", None)) is not None:
        owner = base
    try:
        return weakref.ref(owner, on_end)
    except TypeError:
        return None


def _is_equal(copy: SharedPart, buffer: memoryview) -> bool:
    return bool(_memory_writes().are_equal(copy.map(), buffer, buffer.nbytes))


@functools.cache
def _memory_writes() -> ModuleType:
    from killable.supervisor.linux import memory_writes  # here: it needs ctypes, and few tasks need it

    return memory_writes


def _hash_of(piece: bytes | memoryview) -> bytes:
    from killable.workers.protocol.definitions import hash_of

    return hash_of(piece)
