"""Finds which part of a task cannot be pickled: pickle's own error names the type, not the argument or variable.

Runs in: supervisor, in the user's program. Only after pickling has failed, because it pickles part by part.
"""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from killable.workers.protocol import pickling
from killable.workers.runtime.executor_setup import apply_to_each, try_each


def name_it(error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Add a note to the error that names the argument, global or variable at fault, if it is found. Raise nothing."""
    if isinstance(error, MemoryError | OSError):
        return  # too large: it would fail again
    with contextlib.suppress(Exception):  # pickling runs foreign code
        if function in (apply_to_each, try_each):  # from `map`: the columns are the arguments
            function, *args = args
        found = _first([(None, function), *_arguments(args, kwargs)], seen=set())
        if found:
            error.add_note(f"{found} cannot be sent to a worker: make it there, in the function or an `initializer`.")


Part = tuple[str | None, Any]
"""A name, worded as the beginning of a sentence, and a value; None: there is no useful name."""


def _first(parts: Iterable[Part], seen: set[int]) -> str | None:
    """Return the name of the first part that cannot be sent. For a function sent by value, look at what it uses."""
    for name, value in list(parts):
        if id(value) not in seen and not _can_be_sent(value):
            seen.add(id(value))  # functions may refer to each other
            return _first(_parts_of(value), seen) or name
    return None


def _parts_of(function: Any) -> Iterator[Part]:
    match function:
        case partial():
            yield None, function.func
            yield from _arguments(function.args, function.keywords)
        case MethodType():
            yield f"The object of the method {function.__name__}", function.__self__
        case FunctionType():
            name, code = function.__qualname__, function.__code__
            for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                with contextlib.suppress(ValueError):  # an empty cell
                    yield f"In {name} the variable {variable!r}", cell.cell_contents
            for known in sorted(_globals_of(code) & function.__globals__.keys()):
                yield f"In {name} the global {known!r}", function.__globals__[known]
            defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
            yield from ((f"In {name} a default", default) for default in defaults)


def _globals_of(code: CodeType) -> set[str]:
    """Return the names of the globals that a function's code reads, nested code included."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return found.union(*(_globals_of(each) for each in code.co_consts if isinstance(each, CodeType)))


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Part]:
    yield from ((f"Argument {number}", each) for number, each in enumerate(args, 1))
    yield from ((f"Argument {name!r}", each) for name, each in kwargs.items())


def _can_be_sent(value: object) -> bool:
    try:
        pickling.pickled(value)
    except Exception:
        return False
    return True
