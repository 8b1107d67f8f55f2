"""Whether a function, a class or a small value is still what it was, told without pickling it.

Runs in: the program (an Executor's).

Objects are compared by identity, and only where they may be exchanged for others: a function's code, variables and
attributes, a class's attributes and those of an enumeration's members, what is registered with an abstract class, the
items of a small container. What may change in another way is not told at all.
"""

from __future__ import annotations

import abc
import operator
import sys
from collections import _tuplegetter  # type: ignore[attr-defined]
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import chain
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from killable.workers.protocol import reducers
from killable.workers.protocol.script_globals import MAINS, LruCache, globals_of_main, is_real

FIXED: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range),
    *(CodeType, ModuleType, BuiltinFunctionType, MethodDescriptorType, ClassMethodDescriptorType),
    *(GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType, Enum),
    *reducers.NAMED[1:],
)
"""Types whose objects do not change. Those of their subclasses may."""
_FIXED = frozenset({*FIXED, object, _tuplegetter})
ITEMS_MAX = 100
"""The most items of a container that are compared; pickling more takes less time."""
_MADE_WITH_CLASS = frozenset(
    {
        *("__dict__", "__weakref__", "__annotations__", "__annotate_func__", "__annotations_cache__"),
        *("__dataclass_fields__", "__dataclass_params__", "__orig_bases__", "__parameters__"),
        *("__abstractmethods__", "_abc_impl", "__static_attributes__", "__protocol_attrs__"),
    }
)
"""Attributes of classes whose own changes nobody looks for."""
_MADE_WITH_MEMBER = frozenset({"_name_", "__objclass__", "_sort_order_"})
"""The same of the members of an enumeration."""


class _Changeable(Exception):
    """The value has a part that may change without being exchanged."""


_Look = Callable[[Any], Iterable[Any]]


class Snapshot:
    """What a value consisted of."""

    __slots__ = ("_looks",)

    def __init__(self, looks: list[tuple[_Look, Any, tuple[Any, ...]]]) -> None:
        self._looks = looks

    @classmethod
    def of(cls, value: object, own: str) -> Snapshot | None:
        """Take a snapshot. Return None if the value may change in a way that a snapshot does not tell.

        `own`: the name in `__main__` that the value has. Classes with other names there are told by identity: they have
        snapshots of their own.
        """
        walk = _Walk(own)
        try:
            walk.enter(value, is_outer=True)
        except Exception:  # _Changeable, an empty cell, or what a metaclass of the program raises
            return None
        return cls(walk.looks)

    def holds(self) -> bool:
        """Return whether the value is still the same."""
        for look, subject, before in self._looks:
            now = tuple(look(subject))
            if len(now) != len(before) or not all(map(operator.is_, now, before)):
                return False
        return True


class _Walk:
    """Visits the parts of a value."""

    def __init__(self, own: str) -> None:
        self.looks: list[tuple[_Look, Any, tuple[Any, ...]]] = []
        self._own = own
        self._seen: set[int] = set()

    def enter(self, value: Any, *, is_outer: bool = False) -> None:
        if type(value) in _FIXED or isinstance(value, ModuleType) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        match value:
            case FunctionType():
                if value.__module__ in MAINS or "<" in value.__qualname__:
                    self._enter_function(value, is_outer)
            case type():
                if self._is_part(value):
                    self._enter_class(value)
            case Enum():
                self.enter(type(value))
            case tuple() if not hasattr(value, "__dict__"):  # one of a `namedtuple`, too
                self.enter(type(value))
                self._all(tuple(value))
            case frozenset() if type(value) is frozenset:
                self._all(value)
            case staticmethod() | classmethod():
                self.enter(value.__func__)
            case property():
                self._all((value.fget, value.fset, value.fdel))
            case _ if type(value) is LruCache:
                self.enter(vars(value)["__wrapped__"])
            case _ if type(value) in _CONTAINERS and len(value) <= ITEMS_MAX:
                self._look(_CONTAINERS[type(value)], value)
                self._all(_CONTAINERS[type(value)](value))
            case _:
                raise _Changeable

    def _is_part(self, cls: type) -> bool:
        """Return whether a class is pickled with the value: nothing else brings it, and the worker cannot import it."""
        root, *rest = cls.__qualname__.split(".")
        if cls.__module__ in MAINS:
            found = None if root == self._own else globals_of_main().get(root)
        else:
            found = getattr(sys.modules.get(cls.__module__), root, None)
        for name in rest:
            found = getattr(found, name, None)
        return found is not cls and cls.__module__ != "builtins"

    def _enter_class(self, cls: type) -> None:
        self._look(_attributes, cls)
        self._all((type(cls), *cls.__bases__))
        if "_abc_impl" in vars(cls):
            self._look(_registered, cls)
        members = cls.__members__ if issubclass(cls, Enum) else {}
        if members:
            self._look(_values_of_members, cls)
        for member in members.values():
            self._all(each for name, each in vars(member).items() if name not in _MADE_WITH_MEMBER)
        for name, each in vars(cls).items():
            if name not in _MADE_WITH_CLASS and name not in members and not (members and _is_made_with_enum(name)):
                self.enter(each)

    def _enter_function(self, function: FunctionType, is_outer: bool) -> None:
        cells = () if _is_wrapper_of_library(function) else _contents(function)
        if is_outer or cells or function.__dict__:
            self._look(_parts, function)
        keyword_defaults = (function.__kwdefaults__ or {}).values()
        self._all((*cells, *(function.__defaults__ or ()), *keyword_defaults, *function.__dict__.values()))

    def _look(self, look: _Look, subject: Any) -> None:
        self.looks.append((look, subject, tuple(look(subject))))

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.enter(value)


def _is_wrapper_of_library(function: FunctionType) -> bool:
    """Return whether a decorator of the standard library has made it; what it keeps is its own affair."""
    return is_real(function.__globals__.get("__name__", ""))


def _contents(function: FunctionType) -> tuple[Any, ...]:
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def _parts(function: FunctionType) -> Iterable[Any]:
    return (
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        *_contents(function),
        *function.__dict__.values(),
    )


def _attributes(cls: type) -> Iterable[Any]:
    return vars(cls).values()


def _values_of_members(cls: Any) -> Iterable[Any]:
    return chain.from_iterable(vars(member).values() for member in cls.__members__.values())


def _registered(cls: type) -> Iterable[Any]:
    """Return weak references to the classes that were registered with an abstract one."""
    return abc._get_dump(cls)[0]  # type: ignore[attr-defined, no-any-return]


def _is_made_with_enum(name: str) -> bool:
    """Return whether an attribute is one of those that `enum` keeps of each enumeration: the members tell them."""
    return name.startswith("_") and name.endswith("_") and not name.startswith("__")


def _items(values: dict[Any, Any]) -> Iterable[Any]:
    return (*values.keys(), *values.values())


_CONTAINERS: dict[type, _Look] = {dict: _items, list: tuple, set: tuple}
