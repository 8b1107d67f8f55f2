"""Warns once of a function that brings large globals or variables along with every task.

Runs in: supervisor, in the user's program, in the thread that submits.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from killable.supervisor.executor.pickling_errors import used_by
from killable.workers.protocol import pickling

LARGE_BYTES = 10 << 20
NAMED_MAX = 5
_PACKAGE = __name__.partition(".")[0]
_warned: weakref.WeakSet[CodeType] = weakref.WeakSet()


def warn(total_bytes: int, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Warn if functions of a task bring LARGE_BYTES of globals and closures along; once for each function.

    `total_bytes` is the size of the whole task. Looking closer pickles what the functions use once more.
    """
    if total_bytes < LARGE_BYTES:
        return
    for each in _functions([function, *args, *kwargs.values()]):
        if each.__code__ in _warned:
            continue
        _warned.add(each.__code__)
        sizes = dict(sorted(_sizes(each).items(), key=lambda item: -item[1]))
        if sum(sizes.values()) >= LARGE_BYTES:
            named = ", ".join(f"{name} ({_megabytes(size)})" for name, size in list(sizes.items())[:NAMED_MAX])
            warnings.warn(
                f"each call of {each.__qualname__} brings {_megabytes(sum(sizes.values()))} of globals and variables: "
                f"{named}. Load them once for all workers: Executor(preload=...)",
                stacklevel=_levels_to_the_program(),
            )


def _functions(values: Iterable[Any]) -> Iterator[FunctionType]:
    """Yield the functions that are called, behind partial objects and methods too."""
    for value in values:
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, MethodType):
            yield from _functions([value.__func__])
        elif isinstance(value, partial):
            yield from _functions([value.func, *value.args, *value.keywords.values()])


def _sizes(function: FunctionType) -> dict[str, int]:
    """Return the sizes of what a function brings along, by name, that of other functions that it uses included.

    Nothing of a function that is imported in the worker is counted.
    """
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or _is_imported(each):
            continue
        seen.add(id(each))
        for kind, name, value in used_by(each):
            if isinstance(value, FunctionType):
                waiting.append(value)
            elif (name or kind) not in sizes:
                with contextlib.suppress(Exception):  # pickling runs foreign code
                    sizes[name or kind] = pickling.pickled(value).size
    return {name: size for name, size in sizes.items() if size >= LARGE_BYTES // 100}


def _is_imported(function: FunctionType) -> bool:
    """Return whether a worker finds the function in its module."""
    found: Any = None if function.__module__ == "__main__" else sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _levels_to_the_program() -> int:
    """Return the `stacklevel` at which a warning of `warn` names the line of the program."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    return level
