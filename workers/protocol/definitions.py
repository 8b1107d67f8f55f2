"""The definitions of the globals that a task needs in a worker: functions, classes and data of the program's `__main__`.

Runs in: the program (an Executor's).

A task names what it uses of `__main__`; its definitions come along, each pickled by itself, and refer to each other by
name. A worker that has a definition with this digest skips it (`script_globals`). Those that must exist before each
other (a class with an attribute that is an object of that class's subclass) are pickled together.

A function or class that is as it was when it was pickled last is not pickled again; to see that, the objects that it
consists of are compared by identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Protocol

from killable.workers.protocol import reducers
from killable.workers.protocol.by_value import Key, Pickler, PicklerOfGlobals
from killable.workers.protocol.script_globals import MAIN, MAINS

_SKIPPED = frozenset({"__builtins__", "__name__", "__spec__", "__loader__"})
"""What each module has of its own."""


class Pieces(Protocol):
    """A pickle in pieces (`pickling.Pickled`)."""

    parts: list[Any]
    buffers: list[memoryview]

    def dumped(self, pickler: Callable[..., pickle.Pickler], value: object, beside: bool) -> Any: ...


class Definition:
    """One or more globals of one module, pickled."""

    __slots__ = ("digest", "looks_around", "made_of", "module", "names", "pieces", "refers", "size", "sources", "targets", "uses")

    def __init__(self, values: Mapping[Key, Any], shared: Mapping[int, str], pieces: Pieces) -> None:
        """`shared`: see `PicklerOfGlobals.others`; `pieces` are empty. Raise any exception of pickling."""
        self.module = next(iter(values)).module
        self.names = tuple(key.name for key in values)
        self.made_of = _made_of(values)
        made: list[PicklerOfGlobals] = []

        def pickler(*arguments: Any, **options: Any) -> PicklerOfGlobals:
            made.append(PicklerOfGlobals(*arguments, **options))
            made[0].defines, made[0].others = values, shared
            return made[0]

        pieces.dumped(pickler, tuple(values.values()), True)
        self.pieces = pieces
        self.size = sum(map(len, pieces.parts))
        self.digest = _digest(pieces)
        self.refers = made[0].refers - values.keys()
        self.uses = made[0].uses - values.keys()
        self.sources = made[0].sources
        self.looks_around = made[0].looks_around
        self.targets = {key: self.sources[key.module].get(key.name) for key in self.refers}

    def is_of(self, value: Any, key: Key) -> bool:
        """Return whether this is still the definition of a value."""
        if self.made_of is None or any(self.sources[to.module].get(to.name) is not it for to, it in self.targets.items()):
            return False
        now = _made_of({key: value})
        return now is not None and _are_same(now, self.made_of)


KNOWN_BYTES_MAX = 1 << 20
"""Size of a definition above which it is not kept: its value would live as long as the program."""
_known: dict[Key, Definition] = {}


def needed_by(pickler: Pickler, new: Callable[[], Pieces]) -> list[Definition]:
    """Return the definitions of all that a pickle needs, directly or not, in the order in which they can be loaded.

    `new` makes empty pieces. Raise any exception of pickling.
    """
    needed = _Needed(pickler.sources, new)
    needed.add([*pickler.uses, *pickler.refers])
    if pickler.looks_around or any(each.looks_around for each in needed.found.values()):
        needed.add_code()
    return needed.in_order()


class _Needed:
    """Finds definitions and those that they need."""

    def __init__(self, sources: Mapping[str, dict[str, Any]], new: Callable[[], Pieces]) -> None:
        self.found: dict[Key, Definition] = {}
        self._sources = dict(sources)
        self._new = new
        self._main = sources[MAIN]
        self._shared: dict[int, str] | None = None

    def add(self, waiting: list[Key]) -> None:
        while waiting:
            key = waiting.pop()
            if key not in self.found and key.name not in _SKIPPED and key.name in self._sources[key.module]:
                found = self.found[key] = self._definition(key)
                self._sources = {**found.sources, **self._sources}
                waiting += found.uses | found.refers

    def add_code(self) -> None:
        """Add all functions and classes of `__main__` that need no other data and can be pickled."""
        before = set(self.found)
        for name, value in list(self._main.items()):
            if isinstance(value, (FunctionType, type)) and value.__module__ in MAINS:
                self._add_if_code(Key(MAIN, name))
        while True:
            broken = {key for key, each in self.found.items() if key not in before and each.refers - self.found.keys()}
            if not broken:
                return
            for key in broken:
                del self.found[key]

    def _add_if_code(self, first: Key) -> None:
        waiting = [first]
        while waiting:
            key = waiting.pop()
            value = self._sources.get(key.module, {}).get(key.name, self)
            if key in self.found or key.name in _SKIPPED or not isinstance(value, (FunctionType, type, *_IDENTIFIED)):
                continue
            with contextlib.suppress(Exception):  # pickling runs code of the program
                found = self.found[key] = self._definition(key)
                self._sources = {**found.sources, **self._sources}
                waiting += found.uses | found.refers

    def _definition(self, key: Key) -> Definition:
        value = self._sources[key.module][key.name]
        known = _known.get(key)
        if known is None or not known.is_of(value, key):
            if self._shared is None:
                self._shared = _shared_objects(self._main)
            known = Definition({key: value}, self._shared, self._new())
            if known.made_of is not None and known.size <= KNOWN_BYTES_MAX:
                _known[key] = known
        return known

    def in_order(self) -> list[Definition]:
        """Return the definitions, each behind those that it refers to; those that refer to each other become one."""
        order: list[Definition] = []
        for circle in _circles(self.found):
            if len(circle) == 1:
                order.append(self.found[circle[0]])
            else:
                values = {key: self._sources[key.module][key.name] for key in sorted(circle)}
                order.append(Definition(values, _shared_objects(self._main), self._new()))
        return order


def encode(needed: Sequence[Definition]) -> bytes:
    """Return the table of definitions, as it stands before them."""
    table = pickle.dumps(
        [(each.module, each.names, each.digest, each.size, len(each.pieces.buffers)) for each in needed], pickle.HIGHEST_PROTOCOL
    )
    return struct.pack("<I", len(table)) + table


def _digest(pieces: Pieces) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in (*pieces.parts, *pieces.buffers):
        digest.update(piece)
    return digest.digest()


def _shared_objects(main: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the objects in `__main__` that other globals may refer to, by id."""
    return {
        id(value): name
        for name, value in list(main.items())
        if not (name.startswith("_") or isinstance(value, _BY_VALUE_OR_NAME))
    }


_IDENTIFIED: tuple[type, ...] = (
    *(int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range),
    *(CodeType, ModuleType, BuiltinFunctionType),
    *(GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType, Enum),
    *reducers.NAMED[1:],
)
"""Types whose objects do not change."""
_BY_VALUE_OR_NAME = (*_IDENTIFIED, *reducers.NAMED, FunctionType, type, list, dict, set, frozenset, tuple, bytearray)
_NOT_LOOKED_AT = frozenset(
    {
        *("__dict__", "__weakref__", "__annotations__", "__dataclass_fields__", "__dataclass_params__"),
        *("__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__annotate_func__"),
        *("__annotations_cache__", "__static_attributes__", "__static_attributes__", "__protocol_attrs__"),
    }
)
"""Attributes of classes that are made with the class."""


class _Changeable(Exception):
    """The value has a part that may change without being replaced."""


def _made_of(values: Mapping[Key, Any]) -> list[Any] | None:
    """Return the objects that a definition consists of; None: they do not say whether it has changed."""
    if len(values) > 1:
        return None
    ((key, value),) = values.items()
    try:
        return list(_parts_of(value, key.name if key.module in MAINS else "", set()))
    except (_Changeable, ValueError, RecursionError):  # ValueError: an empty cell
        return None


def _parts_of(value: Any, own: str, seen: set[int]) -> Iterator[Any]:
    """Yield the objects of which a value consists. `own`: functions and classes with this name are looked into."""
    yield value
    inner: Iterable[Any] = ()
    if isinstance(value, _IDENTIFIED) or type(value) is object or id(value) in seen:
        return
    seen.add(id(value))
    match value:
        case FunctionType():
            if value.__module__ in MAINS or "<" in value.__qualname__:
                defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
                cells = (cell.cell_contents for cell in value.__closure__ or ())
                inner = (value.__code__, *cells, *defaults, *value.__dict__, *value.__dict__.values())
        case type():
            if value.__module__ in MAINS and value.__qualname__.partition(".")[0] == own:
                yield from value.__dict__
                if not issubclass(value, Enum):
                    inner = [each for name, each in value.__dict__.items() if name not in _NOT_LOOKED_AT]
        case reducers.LruCache():
            inner = (value.__wrapped__,)
        case tuple() | frozenset():
            inner = value
        case staticmethod() | classmethod():
            inner = (value.__func__,)
        case property():
            inner = (value.fget, value.fset, value.fdel)
        case _:
            raise _Changeable
    for each in inner:
        yield from _parts_of(each, own, seen)


def _are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


# ── order ──


def _circles(found: Mapping[Key, Definition]) -> list[list[Key]]:
    """Return the strongly connected components of what refers to what, those without references first (Tarjan)."""
    numbers: dict[Key, int] = {}
    lowest: dict[Key, int] = {}
    stack: list[Key] = []
    circles: list[list[Key]] = []

    def visit(key: Key) -> None:
        numbers[key] = lowest[key] = len(numbers)
        stack.append(key)
        for other in sorted(found[key].refers):
            if other not in found:
                continue
            if other not in numbers:
                visit(other)
                lowest[key] = min(lowest[key], lowest[other])
            elif other in stack:
                lowest[key] = min(lowest[key], numbers[other])
        if lowest[key] == numbers[key]:
            place = stack.index(key)
            circles.append(stack[place:])
            del stack[place:]

    for key in _used_first(found):
        if key not in numbers:
            visit(key)
    return circles


def _used_first(found: Mapping[Key, Definition]) -> Iterable[Key]:
    """Return all keys, where possible behind what their functions use: some run while others are loaded."""
    order: dict[Key, None] = {}
    begun: set[Key] = set()
    for first in sorted(found):
        waiting: list[tuple[Key, bool]] = [(first, False)]
        while waiting:
            key, is_through = waiting.pop()
            if is_through:
                order[key] = None
            elif key not in begun and key in found:
                begun.add(key)
                waiting.append((key, True))
                waiting += [(other, False) for other in sorted(found[key].refers | found[key].uses, reverse=True)]
    return order
