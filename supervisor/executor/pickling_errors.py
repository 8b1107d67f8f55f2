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

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import pickling
from killable.workers.runtime.executor_setup import apply_to_each, try_each


def name_it(error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Add a note to the error that names the argument, global or variable at fault, if it is found. Raise nothing."""
    if isinstance(error, MemoryError | OSError):
        return  # too large: it would fail again
    with contextlib.suppress(Exception):  # pickling runs foreign code
        if function in (apply_to_each, try_each):  # from `map`: the columns are the arguments
            function, *args = args
        found = _first([Part(None, function), *_arguments(args, kwargs)], seen=set())
        _say(error, found)


def name_in_setup(error: Exception, initializer: Any, initargs: Sequence[Any]) -> None:
    """Do it for what an Executor was made with."""
    with contextlib.suppress(Exception):
        parts = (Part(f"{each.name} of the initializer", each.value) for each in _arguments(initargs, {}))
        _say(error, _first([Part(None, initializer), *parts], seen=set()))


def _say(error: Exception, found: str | None) -> None:
    if found:
        error.add_note(f"{found} cannot be sent to a worker: {_advice(error)}.")


def _advice(error: Exception) -> str:
    if _raised_in(error) == "multiprocessing.context":  # of its locks, queues and shared values
        return "take one of a `multiprocessing.Manager()`"
    return "make it there, in the function or an `initializer`"


def _raised_in(error: Exception) -> str:
    """Return the name of the module that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))


class Part(NamedTuple):
    name: str | None
    """Worded as the beginning of a sentence; None: there is no useful name."""
    value: Any
    is_global: bool = False


def _first(parts: Iterable[Part], seen: set[int]) -> str | None:
    """Return the name of the first part that cannot be sent. For a function sent by value, look at what it uses."""
    for part in list(parts):
        if id(part.value) not in seen and not _can_be_sent(part):
            seen.add(id(part.value))  # functions may refer to each other
            return _first(_parts_of(part.value), seen) or part.name
    return None


def _parts_of(function: Any) -> Iterator[Part]:
    match function:
        case partial():
            yield Part(None, function.func)
            yield from _arguments(function.args, function.keywords)
        case MethodType():
            yield Part(f"The object of the method {function.__name__}", function.__self__)
        case FunctionType():
            for kind, name, value in used_by(function):
                named = f"{kind} {name!r}" if name else kind
                yield Part(f"In {function.__qualname__} {named}", value, is_global=kind == GLOBAL)


VARIABLE, GLOBAL, DEFAULT = "the variable", "the global", "a default"


def used_by(function: FunctionType) -> Iterator[tuple[str, str, Any]]:
    """Yield what a function brings along: the kind, the name (a default has none) and the value of each."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            yield VARIABLE, name, cell.cell_contents
    for name in sorted(_globals_of(code) & function.__globals__.keys()):
        yield GLOBAL, name, function.__globals__[name]
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield DEFAULT, "", default


def _globals_of(code: CodeType) -> set[str]:
    """Return the names of the globals that a function's code reads, nested code included."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return found.union(*(_globals_of(each) for each in code.co_consts if isinstance(each, CodeType)))


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Part]:
    yield from (Part(f"Argument {number}", each) for number, each in enumerate(args, 1))
    yield from (Part(f"Argument {name!r}", each) for name, each in kwargs.items())


def _can_be_sent(part: Part) -> bool:
    try:
        (pickling.defined if part.is_global else pickling.pickled)(part.value)
    except Exception:
        return False
    return True
