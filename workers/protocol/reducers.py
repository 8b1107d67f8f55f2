"""How objects that wrap functions, and a few others that pickle refuses, are pickled by value.

Runs in: any. Only for the Executor. `REDUCERS` holds everywhere, `REDUCERS_OF_GLOBALS` for what a script has in its
globals: there a lock is what it is in a program that has just started, a free one.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import dataclasses
import functools
import sys
import threading
import typing
import weakref
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

from killable.workers.protocol.script_globals import LruCache

Reduction = str | tuple[Any, ...]

NAMED: tuple[type, ...] = (LruCache, typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple, typing.NewType)
"""What is pickled by its name in a module, besides functions and classes."""
if sys.version_info >= (3, 12):
    NAMED += (typing.TypeAliasType,)


# ── functools ──


def _reduce_lru_cache(cached: Any) -> Reduction:
    attributes = {
        name: value for name, value in vars(cached).items() if name not in ("__wrapped__", "cache_parameters")
    }
    return _make_lru_cache, (cached.__wrapped__, cached.cache_parameters()), attributes


def _make_lru_cache(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _reduce_cached_property(value: functools.cached_property[Any]) -> Reduction:
    attributes = {name: each for name, each in vars(value).items() if name != "lock"}  # Python 3.11 has one
    return type(value), (value.func,), attributes


_DISPATCH_CODE: CodeType = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]


def is_singledispatch(function: FunctionType) -> bool:
    """Return whether a function is what `functools.singledispatch` makes."""
    return function.__code__ is _DISPATCH_CODE


def reduce_singledispatch(function: Any) -> tuple[Any, ...]:
    own = ("registry", "register", "dispatch", "_clear_cache", "__wrapped__")
    attributes = {name: value for name, value in vars(function).items() if name not in own}
    names = {name: getattr(function, name) for name in ("__module__", "__name__", "__qualname__", "__doc__")}
    registered = dict(function.registry)
    state = (registered, {**attributes, **names})
    return functools.singledispatch, (registered[object],), state, None, None, _set_singledispatch


def _set_singledispatch(function: Any, state: tuple[Mapping[type, Any], Mapping[str, Any]]) -> None:
    registered, attributes = state
    for kind, implementation in registered.items():
        if kind is not object:
            function.register(kind, implementation)
    for name, value in attributes.items():
        setattr(function, name, value)


# ── typing ──


def _reduce_parameters(value: Any) -> Reduction:
    """Reduce a ParamSpec or TypeVarTuple. A bound or a default is for type checkers only."""
    return _make_parameters, (type(value), value.__name__, value.__module__)


def _make_parameters(kind: Callable[[str], Any], name: str, module: str) -> Any:
    made = kind(name)
    made.__module__ = module
    return made


def _reduce_newtype(value: Any) -> Reduction:
    return _make_newtype, (value.__name__, value.__supertype__, value.__module__, value.__qualname__)


def _make_newtype(name: str, supertype: Any, module: str, qualname: str) -> Any:
    kind: Any = typing.NewType
    made = kind(name, supertype)
    made.__module__, made.__qualname__ = module, qualname
    return made


def _reduce_alias(value: Any) -> Reduction:
    return type(value), (value.__name__, value.__value__)


# ── containers of weak references: what nothing else refers to in the worker is gone there ──


def _reduce_weak_dict(value: Any) -> Reduction:
    return type(value), (dict(value),)


# ── sentinels of dataclasses, which are compared by identity ──


def _name_of_missing(_: object) -> Reduction:
    return "MISSING"


def _name_of_kw_only(_: object) -> Reduction:
    return "KW_ONLY"


def _name_of_factory(_: object) -> Reduction:
    return "_HAS_DEFAULT_FACTORY"


REDUCERS: dict[type, Callable[[Any], Reduction]] = {
    LruCache: _reduce_lru_cache,
    functools.cached_property: _reduce_cached_property,
    typing.ParamSpec: _reduce_parameters,
    typing.TypeVarTuple: _reduce_parameters,
    typing.NewType: _reduce_newtype,
    weakref.WeakKeyDictionary: _reduce_weak_dict,
    weakref.WeakValueDictionary: _reduce_weak_dict,
    type(dataclasses.MISSING): _name_of_missing,
    type(dataclasses.KW_ONLY): _name_of_kw_only,
    type(dataclasses._HAS_DEFAULT_FACTORY): _name_of_factory,  # type: ignore[attr-defined]
}
if sys.version_info >= (3, 12):
    REDUCERS[typing.TypeAliasType] = _reduce_alias


# ── globals: as in a program that has just started ──


def _new_lock(_: object) -> Reduction:
    return _thread.allocate_lock, ()


def _new_rlock(_: object) -> Reduction:
    return threading.RLock, ()


def _new_local(value: threading.local) -> Reduction:
    return type(value), ()


def _reduce_context_variable(value: contextvars.ContextVar[Any]) -> Reduction:
    with contextlib.suppress(LookupError):
        return _make_context_variable, (value.name, contextvars.Context().run(value.get))
    return contextvars.ContextVar, (value.name,)


def _make_context_variable(name: str, default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default)


def _reduce_reference(value: weakref.ref[Any]) -> Reduction:
    found = value()
    return (_dead, ()) if found is None else (weakref.ref, (found,))


def _dead() -> weakref.ref[Any]:
    return weakref.ref(set())


REDUCERS_OF_GLOBALS: dict[type, Callable[[Any], Reduction]] = {
    _thread.LockType: _new_lock,
    type(threading.RLock()): _new_rlock,
    threading.local: _new_local,
    contextvars.ContextVar: _reduce_context_variable,
    weakref.ref: _reduce_reference,
}
