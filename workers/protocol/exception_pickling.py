"""How an exception is pickled whose class has any constructor: without calling it.

Runs in: any. Only for the Executor.

`BaseException.__reduce__` makes pickle call the class with `args`, which is wrong for each class whose `__init__` takes
something else than what it hands to `super().__init__`. Here the exception is made as its built-in base makes it.
"""

from __future__ import annotations

import contextlib
import copyreg
from collections.abc import Iterable, Mapping
from typing import Any

State = tuple[tuple[Any, ...], dict[str, Any]]


def reduce(error: BaseException, attributes: Mapping[str, Any] | None = None) -> Any:
    """Return pickle's reduction of an exception, or NotImplemented if its class has one of its own.

    `attributes`: what to set on it instead of `attributes_of`.
    """
    cls = type(error)
    if cls in copyreg.dispatch_table or any(
        name in vars(each) and each.__module__ != "builtins"
        for each in cls.__mro__
        for name in ("__reduce__", "__reduce_ex__", "__setstate__")
    ):
        return NotImplemented
    args = _reduced(error)[1]  # an OSError's file name is in these and not in its own
    state = (error.args, attributes_of(error) if attributes is None else attributes)
    return make, (cls, args), state, None, None, set_state


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Return what an exception has besides its arguments."""
    _, _, *rest = _reduced(error)
    slots = (name for name in _slots_of(type(error)) if hasattr(error, name))
    return {**(rest[0] if rest and rest[0] else {}), **{name: getattr(error, name) for name in slots}}


def _reduced(error: BaseException) -> tuple[Any, ...]:
    found: Any = error.__reduce__()
    return found if isinstance(found, tuple) else (type(error), error.args)


def chain_of(error: BaseException) -> dict[str, Any]:
    """Return what says how an exception came about."""
    return {
        "__cause__": error.__cause__,
        "__context__": error.__context__,
        "__suppress_context__": error.__suppress_context__,
    }


def make(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without a call of its class's own `__init__`."""
    base: type[BaseException] = next(each for each in cls.__mro__ if each.__module__ == "builtins")
    try:
        error = base.__new__(cls, *args)
    except TypeError:  # a class made in C between the two
        error = cls.__new__(cls, *args)
    with contextlib.suppress(Exception):
        base.__init__(error, *args)
    return error


def set_state(error: BaseException, state: State) -> None:
    args, attributes = state
    for name, value in {"args": args, **attributes}.items():
        set_attribute(error, name, value)


def set_attribute(error: BaseException, name: str, value: object) -> None:
    """Set an attribute of an exception whose class may forbid it, as a frozen dataclass does."""
    object.__setattr__(error, name, value)


def _slots_of(cls: type) -> Iterable[str]:
    names: Iterable[str] = copyreg._slotnames(cls)  # type: ignore[attr-defined]
    return names
