"""The globals of functions that came by value: one namespace per module and process, as if that were imported here.

Runs in: worker, zygote (an Executor's) | the program (which writes them, and shares nothing).

cloudpickle gives the functions of each pickle globals of their own: what the initializer of a script sets, no call of
it would find. Here they share them, by this rule: a name that this process has bound itself is its own; any other is
what the latest call brought along. What an initializer or a preload refers to is the process's own from then on.
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
        self._brought: dict[str, Any] = {}
        """What each name was bound to by a pickle."""

    def admit(self, brought: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a pickle may bind of the globals that it brings."""
        admitted = {
            name: value
            for name, value in brought.items()
            if name not in self.globals or (name in self._brought and self.globals[name] is self._brought[name])
        }
        self._brought.update(admitted)
        return admitted

    def settle(self) -> None:
        """All that is here is the process's own, but for code, which its author may change between two calls."""
        self._brought = {name: value for name, value in self._brought.items() if isinstance(value, _CODE)}


_shared: dict[str, ScriptGlobals] | None = None
"""By the module's name; None: this process shares nothing."""


def share() -> None:
    """From here on functions that come share their globals."""
    global _shared
    _shared = {}


def settle() -> None:
    """Keep what is there: an initializer or a preload has run."""
    for namespace in (_shared or {}).values():
        namespace.settle()


def reduced(reduction: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how a function is pickled, from how cloudpickle does it: pickle's tuple of six."""
    make, args, state, _, _, set_state = reduction
    return _make, (make, args), (set_state, state), None, None, _set_state


def _make(make: Callable[..., FunctionType], args: tuple[Any, ...]) -> FunctionType:
    """Make a function, which has no globals but its module's names yet."""
    code, names, *rest = args
    if _shared is not None and "__name__" in names:
        namespace = _shared.setdefault(names["__name__"], ScriptGlobals())
        for name, value in names.items():
            namespace.globals.setdefault(name, value)
        names = namespace.globals
    return make(code, names, *rest)


def _set_state(function: FunctionType, state: tuple[Callable[..., None], tuple[Any, dict[str, Any]]]) -> None:
    """Give it its globals, its closure and everything else."""
    set_state, (attributes, slots) = state
    namespace = (_shared or {}).get(function.__globals__.get("__name__", ""))
    if namespace is not None and namespace.globals is function.__globals__:
        slots = {**slots, "__globals__": namespace.admit(slots["__globals__"])}
    set_state(function, (attributes, slots))
