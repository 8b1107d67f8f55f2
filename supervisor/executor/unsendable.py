"""What of a call cannot be sent to a worker: pickle says of which type it is, and not whose.

Runs in: supervisor, in a program of anybody's; only after it has failed, for it pickles part by part.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

from killable.workers import pickles
from killable.workers.calls import apply_to_each


def name_it(error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Add a note to the error: which argument, global or variable of a closure it is, if one alone is to blame."""
    if function is apply_to_each:  # of `map`: its columns are the arguments
        function, *args = args
    numbered = ((f"Argument {number}", each) for number, each in enumerate(args, 1))
    found = _first([("The function", function), *numbered, *_named("Argument", kwargs)], seen=set())
    if found:
        error.add_note(f"{found} cannot be sent to a worker: make it there, in the function or in an `initializer`.")


def _first(parts: list[tuple[str, Any]], seen: set[int]) -> str:
    """Return the first that cannot be sent; of a function that is sent with what it uses, what of that."""
    for name, value in parts:
        if id(value) not in seen and not _can_be_sent(value):
            seen.add(id(value))  # functions may use each other
            return _first(list(_parts_of(value)), seen) or name
    return ""


def _parts_of(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, MethodType):
        yield f"The object of the method {function.__name__}", function.__self__
    elif isinstance(function, FunctionType):
        name = function.__qualname__
        used = inspect.getclosurevars(function)
        yield from _named(f"In {name} the variable", used.nonlocals)
        yield from _named(f"In {name} the global", used.globals)


def _named(kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{kind} {name!r}", value) for name, value in values.items())


def _can_be_sent(value: object) -> bool:
    try:
        pickles.pickled(value)
    except Exception:
        return False
    return True
