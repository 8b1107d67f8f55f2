"""The globals of functions pickled by value: one namespace per module and process, as if the module were imported.

Runs in: worker, zygote (an Executor's) | the program (which writes them, and shares nothing).

cloudpickle gives the functions of each pickle separate globals, so a task would not see what the initializer has set.
Here the functions of a module share their globals. A name that this process has bound itself keeps its value; any other
name gets the value of the latest task. Names that an initializer or a preload refers to then belong to the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_CODE = (FunctionType, BuiltinFunctionType, ModuleType, type)


class ScriptGlobals:
    """The globals of one module's functions in this process."""

    def __init__(self) -> None:
        self.globals: dict[str, Any] = {}
        self._from_pickles: dict[str, Any] = {}
        """The value that a pickle bound to each name."""

    def admit(self, brought: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a pickle's globals that it may bind: the names that this process has not bound itself."""
        admitted = {
            name: value
            for name, value in brought.items()
            if name not in self.globals
            or (name in self._from_pickles and self.globals[name] is self._from_pickles[name])
        }
        self._from_pickles.update(admitted)
        return admitted

    def settle(self) -> None:
        """Keep all values from now on, except code, which its author may change between two tasks."""
        self._from_pickles = {name: value for name, value in self._from_pickles.items() if isinstance(value, _CODE)}


_shared: dict[str, ScriptGlobals] | None = None
"""By module name; None: this process shares nothing."""


def share() -> None:
    """Make functions that are unpickled from now on share the globals of their module."""
    global _shared
    _shared = {}


def settle() -> None:
    """Keep the present values of all namespaces. Called after an initializer or a preload has run."""
    for namespace in (_shared or {}).values():
        namespace.settle()


def reduced(reduction: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a function (pickle's tuple of six), made from cloudpickle's reduction."""
    make, args, state, _, _, set_state = reduction
    return _make, (make, args), (set_state, state), None, None, _set_state


def _make(make: Callable[..., FunctionType], args: tuple[Any, ...]) -> FunctionType:
    """Make a function whose globals have only the module's names yet (`__name__`, `__file__`, …)."""
    code, names, *rest = args
    if _shared is not None and "__name__" in names:
        namespace = _shared.setdefault(names["__name__"], ScriptGlobals())
        for name, value in names.items():
            namespace.globals.setdefault(name, value)
        names = namespace.globals
    return make(code, names, *rest)


def _set_state(function: FunctionType, state: tuple[Callable[..., None], tuple[Any, dict[str, Any]]]) -> None:
    """Set the globals, the closure and all other state of a function."""
    set_state, (attributes, slots) = state
    namespace = (_shared or {}).get(function.__globals__.get("__name__", ""))
    if namespace is not None and namespace.globals is function.__globals__:
        slots = {**slots, "__globals__": namespace.admit(slots["__globals__"])}
    set_state(function, (attributes, slots))
