"""`@preload`: values that are made once, before a worker counts as warm, for all jobs.

Runs in: zygote (made before the fork, the workers share its memory) | worker (`each_worker=True`; start method spawn).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from killable.workers.authoring.registered_types import DeclarationError
from killable.workers.authoring.requirements import missing

# `function_signature` is imported below: an Executor's workers mostly declare nothing, and start without it.

T = TypeVar("T")


class Preload(Generic[T]):
    """A function without arguments that runs at most once and then returns the same value.

    At most once per process tree: forked children have the value of their parent. With `each_worker` at most once per
    process: a forked child makes the value again, since a fork does not copy its threads.
    """

    def __init__(self, function: Callable[[], T], *, each_worker: bool, requires: Mapping[str, str]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._lock = threading.RLock()  # reentrant: a preload that calls itself gets a RecursionError, not a deadlock
        self._value: T
        self._made_by: int | None = None
        self.each_worker = each_worker
        self.requires = requires
        self.name = ""
        """What its author calls it, in errors; empty: by its place."""

    @property
    def is_made(self) -> bool:
        """Whether this process has the value."""
        return self._made_by is not None and not (self.each_worker and self._made_by != os.getpid())

    def __call__(self) -> T:
        """Return the value; make it if this process has none. After an error the next call tries again."""
        if not self.is_made:
            with self._lock:
                if not self.is_made:
                    self._value = self._function()
                    self._made_by = os.getpid()
        return self._value

    def __repr__(self) -> str:
        from killable.workers.authoring.function_signature import place_of

        each = " each_worker" if self.each_worker else ""
        return f"<Preload {place_of(self._function)}{each} {'made' if self.is_made else 'not made'}>"


_preloads: dict[tuple[str, str], Preload[Any]] = {}
"""By module and qualified name, so that a reload replaces a preload; in the order of declaration."""


@overload
def preload(function: Callable[[], T], /) -> Preload[T]: ...


@overload
def preload(
    *, each_worker: bool = False, requires: Mapping[str, str] | None = None
) -> Callable[[Callable[[], T]], Preload[T]]: ...


def preload(function: Any = None, /, *, each_worker: bool = False, requires: Mapping[str, str] | None = None) -> Any:
    """Cache the value of a function without arguments, which the pool calls before a worker counts as warm.

    It is called in the zygote, before the fork; with `each_worker=True` (for values with threads, sockets or a GPU) in
    each worker. `requires` maps import names to install lines: if one is not installed, the preload is skipped. An
    exception of the function breaks the pool. Raise DeclarationError.
    """
    if function is None:
        return functools.partial(_declare, each_worker=each_worker, requires=requires)
    return _declare(function, each_worker=each_worker, requires=requires)


def has_preloads(*, each_worker: bool) -> bool:
    """Return whether there are preloads with this `each_worker`."""
    return any(declared.each_worker is each_worker for declared in _preloads.values())


def run_preloads(each_worker: bool) -> None:
    """Run all preloads with this `each_worker`, in the order of declaration.

    May be called again: values are made once. An exception of a preload is raised with a note that names the preload.
    """
    for declared in list(_preloads.values()):
        if declared.each_worker is each_worker and not missing(declared.requires):
            try:
                declared()
            except BaseException as error:
                error.add_note(f"in {declared.name or repr(declared)}")
                raise


def clear() -> None:
    """Forget all preloads (for tests)."""
    _preloads.clear()


def _declare(function: Callable[[], T], *, each_worker: bool, requires: Mapping[str, str] | None) -> Preload[T]:
    import inspect

    from killable.workers.authoring.function_signature import check_function, check_requires, place_of

    check_function("preload", function)
    if inspect.signature(function).parameters or inspect.isgeneratorfunction(function):
        raise DeclarationError(f"@preload {place_of(function)}: it must take no parameters and return its value")
    declared = Preload(function, each_worker=each_worker, requires=check_requires("preload", function, requires))
    _preloads[function.__module__, function.__qualname__] = declared
    return declared
