"""The definitions of the globals that a task needs in a worker: functions, classes and data of `__main__`.

Runs in: the program (an Executor's).

A task names what it uses of `__main__`; its definitions come along, each pickled by itself, and refer to each other by
name. A worker that has a definition with this digest skips it (`script_globals`). Those that must exist before each
other (a class with an attribute that is an object of that class's subclass) are pickled together.

A definition is pickled again only if its value may have changed since (`change_detection`). Of those that have to be,
what was pickled is not kept, since it may be the program's own memory, but what they need and their digest. Of an array
of numbers the form is compared, and the content where it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import operator
import pickle
import struct
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, Protocol

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import definition_order, reducers
from killable.workers.protocol.by_value import Key, PicklerOfGlobals
from killable.workers.protocol.change_detection import FIXED, Snapshot
from killable.workers.protocol.script_globals import MAIN, MAINS, globals_of_main

KNOWN_BYTES_MAX = 1 << 20
"""Size of a definition above which it is not kept: its value would live as long as the program."""
KNOWN_MAX = 1000
"""The most sets of definitions that are kept. A program has one for each function that it submits."""
IDENTIFIED_BYTES_MIN = 256 << 10
"""Larger pieces are not hashed with the rest of their definition."""
DIGEST_BYTES = 16
_SKIPPED = frozenset({"__builtins__", "__name__", "__spec__", "__loader__"})
"""What each module has of its own."""
_NOT_SHARED = (*FIXED, *reducers.NAMED, FunctionType, type, list, dict, set, frozenset, tuple, bytearray)


_Form = tuple[Any, ...]


class Pieces(Protocol):
    """A pickle in pieces."""

    @property
    def parts(self) -> list[Any]: ...
    @property
    def buffers(self) -> list[memoryview]: ...


class NewPieces(Pieces, Protocol):
    """An empty one (`pickling.Pickled`)."""

    def dumped(self, pickler: Callable[..., pickle.Pickler], value: object, beside: bool) -> Any: ...


Identify = Callable[[bytes | memoryview], bytes]
"""Returns bytes that stand for the content of a large piece, or for a copy of it."""


class Needs(Protocol):
    """What a pickle needs of the program's globals (`Pickler`)."""

    refers: Collection[Key]
    uses: Collection[Key]
    looks_around: bool
    sources: dict[str, dict[str, Any]]


class NeedsOfFunction:
    """What a pickle needs that names one function of `__main__`, and nothing else of it."""

    __slots__ = ("refers", "sources")
    uses: Collection[Key] = ()
    looks_around = False

    def __init__(self, function: FunctionType) -> None:
        own = globals_of_main()
        self.refers: Collection[Key] = frozenset((Key(MAIN, function.__qualname__.partition(".")[0]),))
        self.sources = {MAIN: own, own.get("__name__", MAIN): own}


class Definition:
    """One or more globals of one module, pickled."""

    __slots__ = (
        *("buffers", "contents", "digest", "form", "key", "looks_around", "module", "names", "parts", "refers"),
        *("size", "sources", "uses", "value"),
        *("_snapshot", "_targets"),
    )

    def __init__(
        self,
        values: Mapping[Key, Any],
        own: dict[str, Any],
        shared: Mapping[int, str] | None,
        pieces: NewPieces,
        identify: Identify,
    ) -> None:
        """`own`: the globals of their module. `shared`: see `PicklerOfGlobals.others`; None: it is an array of numbers,
        which refers to nothing. `pieces` are empty.

        Raise any exception of pickling.
        """
        self.key, self.value = next(iter(values.items()))
        """The first of its globals."""
        name = self.key.name if self.key.module in MAINS else ""
        self.form = () if shared is not None else _form_of(self.value)
        """Of an array of numbers: before it is pickled, so that a change meanwhile is seen the next time."""
        self._snapshot = Snapshot.of(self.value, name) if len(values) == 1 and not self.form else None
        self.module = self.key.module
        self.names = tuple(key.name for key in values)
        made: list[PicklerOfGlobals] = []

        def pickler(*arguments: Any, **options: Any) -> PicklerOfGlobals:
            made.append(PicklerOfGlobals(*arguments, **options))
            made[0].defines, made[0].others = values, shared or {}
            return made[0]

        pieces.dumped(pickle.Pickler if self.form else pickler, tuple(values.values()), True)
        self.parts, self.buffers = pieces.parts, pieces.buffers
        self.size = sum(map(len, pieces.parts))
        self.contents = [_content_of(buffer, identify) for buffer in pieces.buffers]
        """What stands for the content of each buffer."""
        self.digest = _digest(pieces.parts, self.contents, identify)
        self.refers = made[0].refers - values.keys() if made else set()
        self.uses = made[0].uses - values.keys() if made else set()
        self.looks_around = bool(made) and made[0].looks_around
        self.sources = {self.module: own, **(made[0].sources if made else {})}
        self._targets = [(key, _value_of(key, self.sources)) for key in self.refers]

    @property
    def may_be_kept(self) -> bool:
        """Whether `holds` can tell that the value has not changed."""
        return self._snapshot is not None and self.size <= KNOWN_BYTES_MAX and not self.buffers

    def is_of(self, own: Mapping[str, Any]) -> bool:
        """Return whether this is the definition that is needed, for functions with these globals."""
        return self.sources[self.module] is own and self.holds() and self._refers_to_the_same()

    def holds(self) -> bool:
        """Return whether the program still has the same value under this name."""
        snapshot = self._snapshot
        return snapshot is not None and _value_of(self.key, self.sources) is self.value and snapshot.holds()

    def again(self, own: dict[str, Any], search: _Search) -> Definition | None:
        return self if self.holds() else None

    def _refers_to_the_same(self) -> bool:
        return all(_value_of(key, self.sources) is value for key, value in self._targets)


class _Outline(NamedTuple):
    """What is kept of a definition whose value may change: whether it has, its next pickle tells."""

    key: Key
    digest: bytes
    refers: Collection[Key]
    uses: Collection[Key]
    looks_around: bool

    @classmethod
    def of(cls, definition: Definition) -> _Outline:
        return cls(definition.key, definition.digest, definition.refers, definition.uses, definition.looks_around)

    def again(self, own: dict[str, Any], search: _Search) -> Definition | None:
        if self.key.name not in own:
            return None
        made = search.define_one(self.key, own)
        return None if made.may_be_kept or _Outline.of(made) != self else made


class _Array:
    """What is kept of the definition of an array of numbers, and tells whether its form and content are the same."""

    __slots__ = ("_array", "_content", "_dtype", "_form", "_is_beside", "key", "parts")

    def __init__(self, definition: Definition, content: bytes) -> None:
        self.key = definition.key
        self.parts = [bytes(part) for part in definition.parts]
        self._is_beside = bool(definition.contents)
        """Whether the content is beside the pickle."""
        self._content = content
        self._array = weakref.ref(definition.value)
        self._dtype, *self._form = definition.form

    @classmethod
    def of(cls, definition: Definition) -> _Array | None:
        """Return None if it is another definition, or the content does not lie in one piece."""
        if not definition.form:
            return None
        if definition.contents:
            return cls(definition, *definition.contents)
        with contextlib.suppress(BufferError):
            content = bytes(pickle.PickleBuffer(definition.value).raw())
            if content in b"".join(definition.parts):  # else another thread has written to it meanwhile
                return cls(definition, content)
        return None

    def again(self, own: dict[str, Any], search: _Search) -> Pieces | None:
        array: Any = self._array()
        if array is None or own.get(self.key.name) is not self._array() or not search.has_one_name(array, own):
            return None
        dtype, *form = _form_of(array)
        if dtype is not self._dtype or form != self._form:
            return None
        buffer = pickle.PickleBuffer(array).raw()
        content = _content_of(buffer, search.identify) if self._is_beside else bytes(buffer)
        return ArrayPieces(self.parts, [buffer] if self._is_beside else []) if content == self._content else None


class ArrayPieces(NamedTuple):
    """The pickle of an array that has the form that it had."""

    parts: list[Any]
    buffers: list[memoryview]


class Needed:
    """The definitions that a pickle needs, in an order in which they can be loaded."""

    def __init__(
        self,
        definitions: Sequence[Definition],
        missing: Iterable[Key],
        sources: Mapping[str, dict[str, Any]],
        size: int,
    ) -> None:
        """`missing` were asked for and are not there (builtins, mostly). `size`: of `__main__`, if all of it was asked
        for, else 0.
        """
        self._sources = sources
        self._missing = [(sources[key.module], key.name) for key in missing]
        self._size = size
        table = pickle.dumps(
            [(each.module, each.names, each.digest, each.size, len(each.buffers)) for each in definitions],
            pickle.HIGHEST_PROTOCOL,
        )
        self._table = struct.pack("<I", len(table)) + table
        self._known = [each if each.may_be_kept else _Array.of(each) or _Outline.of(each) for each in definitions]
        self.together = (
            b"".join([self._table, *(part for each in definitions for part in each.parts)])
            if not any(isinstance(each, _Outline) for each in self._known)
            else b""
        )
        """The table and all parts, if none of them may change; else empty."""
        self.may_be_kept = all(len(each.names) == 1 for each in definitions if not each.may_be_kept)

    def pieces(self, definitions: Iterable[Pieces]) -> DefinitionPieces:
        """Return what a pickle brings along: the table, then these definitions, which are as they were."""
        if not self._known:
            return NO_DEFINITIONS
        buffers = [buffer for each in definitions for buffer in each.buffers]
        if self.together:
            return DefinitionPieces([self.together], buffers, self)
        return DefinitionPieces([self._table, *(part for each in definitions for part in each.parts)], buffers, self)

    def again(self, search: _Search) -> DefinitionPieces | None:
        """Return what a pickle brings along that needs the same again, for functions with these globals. Return None
        if the definitions are others now.
        """
        if (
            not all(self._sources.get(module) is own for module, own in search.sources.items())
            or (self._size and self._size != len(self._sources[MAIN]))
            or any(name in own for own, name in self._missing)
        ):
            return None
        found: list[Pieces] = []
        for each in self._known:
            made = each.again(self._sources[each.key.module], search)
            if made is None:
                return None
            found.append(made)
        return self.pieces(found)


class DefinitionPieces(NamedTuple):
    """The pieces of a pickle that are its definitions."""

    parts: list[Any]
    buffers: list[memoryview]
    needed: Needed | None
    """Stands for the content of these definitions: while it is the same object, they are the same. None: there are
    none.
    """


NO_DEFINITIONS = DefinitionPieces([], [], None)
_known: dict[Key, Definition] = {}
_known_sets: dict[tuple[frozenset[Key], frozenset[Key], bool], Needed] = {}


def hash_of(piece: bytes | memoryview) -> bytes:
    """Return a hash of the content. (SHA-256: processors have instructions for it.)"""
    return hashlib.sha256(piece, usedforsecurity=False).digest()


def needed_by(needs: Needs, new: Callable[[], NewPieces], identify: Identify) -> DefinitionPieces:
    """Return the definitions of all that a pickle needs, directly or not. `new` makes empty pieces.

    Raise any exception of pickling.
    """
    asked = frozenset(needs.refers), frozenset(needs.uses), needs.looks_around
    search = _Search(needs.sources, new, identify)
    known = _known_sets.get(asked)
    again = None if known is None else known.again(search)
    if again is not None:
        return again
    search.add([*needs.uses, *needs.refers])
    definitions, needed = search.needed(needs.looks_around)
    if needed.may_be_kept:
        if len(_known_sets) >= KNOWN_MAX:
            _known_sets.clear()
        _known_sets[asked] = needed
    return needed.pieces(definitions)


class _Search:
    """Finds definitions and those that they need."""

    def __init__(self, sources: Mapping[str, dict[str, Any]], new: Callable[[], NewPieces], identify: Identify) -> None:
        self.identify = identify
        self.sources = dict(sources)
        """The globals of each module in which something was found."""
        self._found: dict[Key, Definition] = {}
        self._missing: set[Key] = set()
        self._new = new
        self._main = sources[MAIN]
        self._shared: dict[int, str] | None = None

    def add(self, waiting: list[Key]) -> None:
        """Find the definitions of these globals."""
        while waiting:
            key = waiting.pop()
            if key in self._found or key.name in _SKIPPED:
                continue
            if key.name in self.sources[key.module]:
                waiting += self._find(key)
            else:
                self._missing.add(key)

    def needed(self, looks_around: bool) -> tuple[list[Definition], Needed]:
        """Return what was found, in order; with all code of `__main__` if any function looks around in it."""
        looks_around = looks_around or any(each.looks_around for each in self._found.values())
        if looks_around:
            self._add_code()
        order: list[Definition] = []
        refers = {key: each.refers for key, each in self._found.items()}
        for circle in definition_order.circles(refers, {key: each.uses for key, each in self._found.items()}):
            if len(circle) == 1:
                order.append(self._found[circle[0]])
            else:
                values = {key: _value_of(key, self.sources) for key in sorted(circle)}
                order.append(self._define(values, self._main))
        return order, Needed(order, self._missing, self.sources, len(self._main) if looks_around else 0)

    def _add_code(self) -> None:
        """Add all functions and classes of `__main__` that need no other data and can be pickled."""
        before = set(self._found)
        for name, value in list(self._main.items()):
            if isinstance(value, (FunctionType, type)) and value.__module__ in MAINS:
                self._add_if_code(Key(MAIN, name))
        while True:
            new = self._found.keys() - before
            broken = [key for key in new if self._found[key].refers - self._found.keys()]
            if not broken:
                return
            for key in broken:
                del self._found[key]

    def _add_if_code(self, first: Key) -> None:
        waiting = [first]
        while waiting:
            key = waiting.pop()
            value = self.sources.get(key.module, {}).get(key.name, self)
            if key in self._found or key.name in _SKIPPED or not isinstance(value, (FunctionType, type, *FIXED)):
                continue
            with contextlib.suppress(Exception):  # pickling runs code of the program
                waiting += self._find(key)

    def _find(self, key: Key) -> Iterable[Key]:
        """Make or find a definition; return what it needs."""
        known = _known.get(key)
        own = self.sources[key.module]
        if known is None or not known.is_of(own):
            known = self.define_one(key, own)
            if known.may_be_kept:
                _known[key] = known
        self._found[key] = known
        self.sources = {**known.sources, **self.sources}
        return known.uses | known.refers

    def define_one(self, key: Key, own: dict[str, Any]) -> Definition:
        """Pickle one global of a module with these globals."""
        return self._define({key: own.get(key.name)}, own)

    def _define(self, values: Mapping[Key, Any], own: dict[str, Any]) -> Definition:
        is_array = len(values) == 1 and self._is_plain_array(next(iter(values.values())), own)
        return Definition(values, own, None if is_array else self._shared_objects(), self._new(), self.identify)

    def _is_plain_array(self, value: Any, own: Mapping[str, Any]) -> bool:
        """Return whether plain pickle does for an array, which is nine times as fast."""
        return _is_array(value) and self.has_one_name(value, own)

    def has_one_name(self, value: object, own: Mapping[str, Any]) -> bool:
        """Return whether a global of a module has no other name in `__main__`, by which functions may know it."""
        names = sum(map(operator.is_, tuple(self._main.values()), itertools.repeat(value)))
        return names == (own is self._main)

    def _shared_objects(self) -> Mapping[int, str]:
        """Return the names of the objects in `__main__` that other globals may refer to, by id."""
        if self._shared is None:
            self._shared = {
                id(value): name
                for name, value in list(self._main.items())
                if not (name.startswith("_") or isinstance(value, _NOT_SHARED))
            }
        return self._shared


def _is_array(value: Any) -> bool:
    """Return whether it is an array of numbers, and so refers to nothing."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or type(value) is not getattr(numpy, "ndarray", None):
        return False
    kind: Any = value.dtype
    return bool(kind.isbuiltin == 1 and not kind.hasobject)


def _value_of(key: Key, sources: Mapping[str, Mapping[str, Any]]) -> Any:
    return sources[key.module].get(key.name)


def _form_of(array: Any) -> _Form:
    """Return what the pickle of an array tells, but for its content."""
    return array.dtype, array.shape, array.strides, array.flags.writeable


def _content_of(buffer: memoryview, identify: Identify) -> bytes:
    """Return what stands for the content of a buffer."""
    return hash_of(buffer) if buffer.nbytes < IDENTIFIED_BYTES_MIN else identify(buffer)


def _digest(parts: Iterable[Any], contents: Iterable[bytes], identify: Identify) -> bytes:
    digest = hashlib.sha256(usedforsecurity=False)
    for part in parts:
        digest.update(part if len(part) < IDENTIFIED_BYTES_MIN else identify(part))
    for content in contents:
        digest.update(content)
    return digest.digest()[:DIGEST_BYTES]
