"""The program's `__main__` in a worker: a module in which the functions and classes live that came by value.

Runs in: worker, zygote (an Executor's) | the program (whose modules are the real ones: nothing is bound there).

Each task brings the definitions that it needs (`definitions`), each with a digest of its content. A definition whose
digest is known is not loaded again: what the worker has made of it, a cache in a dict or in a class, lives as long as
the worker. A name that this process has bound itself keeps its value; any other name gets what the program has now.
Names that an initializer or a preload refers to then belong to the process.

Functions of other modules that had to come by value (a lambda of a module) have globals beside that module, by the same
rules. Those of the standard library have the real ones.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

LruCache: type = type(functools.lru_cache(len))
MAIN = "__main__"
_SPAWNED = "__mp_main__"
"""multiprocessing's name for `__main__` in a process that it has started with the method "spawn"."""
MAINS = frozenset({MAIN, _SPAWNED})
_CODE = (FunctionType, BuiltinFunctionType, ModuleType, type)
_FACTS = ("__name__", "__file__", "__package__", "__doc__")


class Namespace:
    """The globals of one module's functions in this process."""

    def __init__(self, globals: dict[str, Any]) -> None:
        self.globals = globals
        self.latest: dict[str, Any] = {}
        """The last value that came for each name, also if the process keeps its own."""
        self._brought: dict[str, Any] = {}
        """The value that came for each name; without those that the process has taken over."""
        self._digests: dict[str, bytes] = {}

    def has(self, names: Sequence[str], digest: bytes) -> bool:
        """Return whether the last definition of these names had this content."""
        return all(self._digests.get(name) == digest for name in names)

    def bind(self, name: str, value: object, digest: bytes) -> None:
        """Bind a name to what came for it, unless this process has bound the name itself."""
        global _bound
        _bound += 1
        is_new_code = self._digests.get(name, digest) != digest and _is_other_code(value, self.latest[name])
        if name not in self.globals or (name in self._brought and self.globals[name] is self._brought[name]):
            self.globals[name] = self._brought[name] = value
        self.latest[name] = value
        self._digests[name] = digest
        if is_new_code:
            self._clear_caches(name)

    def _clear_caches(self, name: str) -> None:
        """Forget what functions with a cache have returned that call, by its name, code which is another one now. Only
        `functools.lru_cache` and `cache` are known.
        """
        for value in list(self.globals.values()):
            for cache in _caches_of(value):
                if name in self._called_by(cache.__wrapped__):
                    cache.cache_clear()

    def _called_by(self, function: Any) -> set[str]:
        """Return the names of globals that a function refers to, also through functions and classes of those."""
        found: set[str] = set()
        looked_at = [function]
        while looked_at:
            for code in _codes_of(looked_at.pop()):
                new = {each for each in _names_in(code) if each in self.globals} - found
                found |= new
                looked_at += [self.globals[each] for each in new]
        return found

    def settle(self) -> None:
        """Keep all values from now on, except code, which its author may change between two tasks."""
        self._brought = {name: value for name, value in self._brought.items() if isinstance(value, _CODE)}


def _is_other_code(value: object, before: object) -> bool:
    """Return whether a function was written anew, or one of a class: its attributes may change with each task."""
    if isinstance(value, type):
        return [*_codes_of(value)] != [*_codes_of(before)]
    return isinstance(value, FunctionType) or type(value) is LruCache


def _caches_of(value: object) -> Iterator[Any]:
    """Yield a cache, or those among the members of a class."""
    yield from (each for each in _members(value) if type(each) is LruCache)


def _codes_of(value: object) -> Iterator[CodeType]:
    """Yield the code of a function, with a cache or without, or of those among the members of a class."""
    for each in _members(value):
        plain = getattr(each, "__wrapped__", None) if type(each) is LruCache else each
        if isinstance(plain, FunctionType):
            yield plain.__code__


def _members(value: object) -> Iterator[Any]:
    """Yield a value, or what is in a class, without what makes a method of it."""
    for each in vars(value).values() if isinstance(value, type) else [value]:
        yield each.__func__ if isinstance(each, (staticmethod, classmethod)) else each


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a lambda, a comprehension, an inner function
            yield from _names_in(constant)


_namespaces: dict[str, Namespace] | None = None
"""By module name; None: this process is not an Executor's."""
_bound = 0
"""How often a name was bound."""
_replaced: list[ModuleType] = []
"""The module that was `__main__` before: its functions still run."""


def share(facts: Mapping[str, str]) -> None:
    """Make a module `__main__` with these attributes, in which the program's functions and classes will live."""
    global _namespaces
    module = ModuleType(facts.get("__name__", MAIN))
    module.__dict__.update(facts)
    module.__dict__["__builtins__"] = __builtins__
    _replaced.append(sys.modules[MAIN])
    for name in {MAIN, module.__name__}:
        sys.modules[name] = module
    _namespaces = dict.fromkeys(MAINS, Namespace(module.__dict__))


def facts_of_main() -> dict[str, str]:
    """Return what the program's `__main__` says of itself, for `share`."""
    own = sys.modules[MAIN].__dict__
    return {name: own[name] for name in _FACTS if isinstance(own.get(name), str)}


def globals_of_main() -> dict[str, Any]:
    """Return the globals of the functions of `__main__`.

    In a process that multiprocessing has spawned they are not those of the module: it runs the script in another one
    and copies what that has (multiprocessing.spawn, runpy.run_path).
    """
    own = sys.modules[MAIN].__dict__
    if own.get("__name__") == _SPAWNED:
        for value in list(own.values()):
            if type(value) is FunctionType and value.__globals__.get("__name__") == _SPAWNED:
                return value.__globals__
    return own


def is_shared() -> bool:
    """Return whether functions that came by value live in modules of this process that stand for the program's."""
    return _namespaces is not None


def settle() -> None:
    """Keep the present values of all namespaces. Called after an initializer or a preload has run."""
    for namespace in (_namespaces or {}).values():
        namespace.settle()


def namespace(module: str) -> Namespace | None:
    """Return where definitions of a module are bound in this process; None: nowhere, this is the program itself."""
    return None if _namespaces is None else _namespaces.setdefault(module, Namespace({"__name__": module}))


def version() -> int:
    """Return a number that changes with each binding of a definition."""
    return _bound


def is_of_program(name: str) -> bool:
    """Return whether a name in this process's `__main__` is, unchanged, what the program has under that name."""
    if _namespaces is None:
        return True
    main = _namespaces[MAIN]
    return name in main.latest and main.globals.get(name) is main.latest[name]


def is_real(module: str) -> bool:
    """Return whether functions of a module that come by value get the real module's globals: the standard library's."""
    return module.partition(".")[0] in sys.stdlib_module_names and module not in MAINS


def globals_for(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the globals of a function that came by value; `names` has its module's attributes."""
    module = names["__name__"]
    if is_real(module):
        return importlib.import_module(module).__dict__
    space = namespace(module)
    if space is not None:
        for name, value in names.items():
            space.globals.setdefault(name, value)
        return space.globals
    if module in MAINS:
        return globals_of_main()
    known = sys.modules.get(module)
    return dict(names) if known is None else known.__dict__


def look_up(module: str, name: str) -> Any:
    """Return the value of a global (how a pickle refers to one)."""
    space = namespace(module)
    if space is not None:
        return space.globals[name]
    return (globals_of_main() if module in MAINS else sys.modules[module].__dict__)[name]
