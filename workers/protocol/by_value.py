"""Pickles functions, classes and exceptions that the receiving process cannot import (cloudpickle).

Runs in: any. Only for the Executor.

What has a name in the program's `__main__` is pickled by that name, as plain pickle does, and the pickler notes which
names it has met: a worker gets their definitions with the task (`definitions`), the program has them itself. Everything
else of `__main__` (lambdas, closures, classes in functions) goes by value. A function by value takes no globals along;
the pickler notes their names.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
import types
import typing
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar, TypeVar

import cloudpickle  # type: ignore[import-untyped]
from cloudpickle import cloudpickle as parts_of_cloudpickle

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import exception_pickling, reducers, script_globals
from killable.workers.protocol.script_globals import MAIN, MAINS, globals_of_main

_OWN_GLOBALS = globals()
_NO_FILE = "<dynamic-code>"
"""The file name that cloudpickle writes into code objects from 3.1.2 on."""
_WORD = re.compile(r"[^\W\d]\w*")
_NAMED = (FunctionType, *reducers.NAMED)
_MADE_BY_PYDANTIC = frozenset(
    f"__pydantic_{name}__" for name in ("core_schema", "validator", "serializer", "parent_namespace")
)
"""Attributes of a pydantic model that refer to the class itself in compiled code: they are made anew."""
_LOOKING = frozenset({"globals", "eval", "exec", "modules", MAIN, "pickle", "cloudpickle", "dill", "joblib", "torch"})
"""Names in code that finds functions and classes of `__main__` without naming them; a pickle names them itself."""


class Key(NamedTuple):
    """A global variable: its module's name and its own."""

    module: str
    name: str


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles for a worker; `refers` and `uses` are the globals that the worker needs."""

    dispatch_table: ClassVar[Any] = ChainMap(reducers.REDUCERS, cloudpickle.Pickler.dispatch_table)

    def __init__(self, file: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, protocol, buffer_callback)
        self.refers: set[Key] = set()
        """Globals of `__main__` that must be there when this pickle is loaded."""
        self.uses: set[Key] = set()
        """Globals that must be there when the functions in it run."""
        self.sources: dict[str, dict[str, Any]] = {MAIN: globals_of_main()}
        """The globals of each module in `uses`, as they are here."""
        self.looks_around = False
        """Whether a function in it may ask for anything in `__main__`."""
        self._main = self.sources[MAIN]
        self.sources[self._main.get("__name__", MAIN)] = self._main

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, _NAMED) or issubclass(kind, type):
            if kind is FunctionType and value.__globals__ is _OWN_GLOBALS:
                return NotImplemented  # what a pickle calls when it is loaded, in each pickle of a function
            name = self._name_in_main(value)
            if name is not None:
                return name
            if kind is FunctionType:
                return self._reduce_function(value)
            if kind is TypeVar:
                return _reduce_type_variable(value)
            return self._reduce_class(value) if issubclass(kind, type) else NotImplemented
        if kind is CodeType:
            make, parts = self.dispatch_table[CodeType](value)
            return make, tuple(value.co_filename if _is_no_file(part) else part for part in parts)
        if kind is CellType:
            return parts_of_cloudpickle._make_empty_cell, ()  # its function brings the contents, which may refer to it
        if isinstance(value, BaseException):
            return self._reduce_exception(value)
        if kind is object:
            return self._reduce_sentinel(value)
        return NotImplemented

    # ── by name ──

    def _name_in_main(self, value: Any) -> str | None:
        """Return the name by which the receiving process finds a function, a class or a type variable of `__main__`."""
        if getattr(value, "__module__", None) not in MAINS:
            return None
        name: str = getattr(value, "__qualname__", None) or value.__name__
        root, *rest = name.split(".")
        if root not in self._main or not self._may_name(root):
            return None
        found = self._main[root]
        for part in rest:
            found = getattr(found, part, None)
        if found is not value:
            return None
        self.refers.add(Key(MAIN, root))
        return name

    def _may_name(self, root: str) -> bool:
        return True

    def _reduce_sentinel(self, value: object) -> Any:
        """Refer to an `object()` that is a global by its name: it is compared by identity."""
        for name, each in list(self._main.items()):  # another thread of the program may set one
            if each is value and self._may_name(name):
                self.refers.add(Key(MAIN, name))
                return script_globals.look_up, (MAIN, name)
        return NotImplemented

    # ── by value ──

    def _reduce_function(self, function: FunctionType) -> Any:
        if reducers.is_singledispatch(function):
            return reducers.reduce_singledispatch(function)
        if function.__module__ in MAINS:  # cloudpickle knows one of them
            reduction = self._dynamic_function_reduce(function)
        else:
            reduction = super().reducer_override(function)
        if not isinstance(reduction, tuple):
            return reduction
        _, (code, names, *_), (attributes, slots), *_ = reduction
        used = slots["__globals__"]
        slots = {**slots, "__globals__": None}
        cells = slots.pop("__closure__") or ()
        contents = [cell for cell in map(_contents_of, cells) if cell]
        module = self._space_of(function)
        own = used if module is None else None
        if module is not None and not script_globals.is_real(module):
            module = MAIN if module in MAINS else module
            named = parts_of_cloudpickle._extract_code_globals(function.__code__)  # those that are not there yet, too
            annotated = self._named_in(slots["__annotations__"], module)
            self.uses.update(Key(module, name) for name in {*named, *annotated})
            self.looks_around = self.looks_around or (module == MAIN and _looks_around(code))
        state = (attributes, slots, contents, own)
        return _make_function, (code, names, cells, module is None), state, None, None, _set_function

    def _space_of(self, function: FunctionType) -> str | None:
        """Return the module whose globals the function will have there; None: it gets a copy for itself alone."""
        own = function.__globals__
        module = own.get("__name__")
        if not isinstance(module, str):
            return None
        if script_globals.is_real(module):
            known = sys.modules.get(module)
            return module if known is not None and known.__dict__ is own else None
        return module if self.sources.setdefault(module, own) is own else None

    def _named_in(self, annotations: Mapping[str, Any], module: str) -> set[str]:
        """Return the names of types in annotations that are text: `typing.get_type_hints` looks for them."""
        own = self.sources[module]
        words = {word for text in annotations.values() if isinstance(text, str) for word in _WORD.findall(text)}
        return {word for word in words if _is_type(own.get(word))}

    def _reduce_exception(self, error: BaseException) -> Any:
        return exception_pickling.reduce(error)

    def _reduce_class(self, cls: type) -> Any:
        if cls.__module__ in MAINS:
            reduction = parts_of_cloudpickle._dynamic_class_reduce(cls)  # as of functions
        else:
            reduction = super().reducer_override(cls)
        if not (isinstance(reduction, tuple) and len(reduction) == 6):
            return reduction
        make, args, (attributes, slots), *_ = reduction
        if cls.__module__ in MAINS:
            annotations = attributes.get("__annotations__")
            if annotations:
                self.uses.update(Key(MAIN, name) for name in self._named_in(annotations, MAIN))
        members: dict[str, Any] = {}
        for name in _MADE_BY_PYDANTIC & attributes.keys():
            del attributes[name]
        if issubclass(cls, Enum):
            members = {name: _extra_of(member) for name, member in cls.__members__.items()}
            attributes = {name: value for name, value in attributes.items() if name not in members}
            bases, name, qualname, _, *rest = args
            values = {name: member.value for name, member in cls.__members__.items()}  # with aliases
            args = (bases, name, qualname, values, *rest)
        else:
            metaclass, name, bases, body, *rest = args
            body = {**body, "__qualname__": cls.__qualname__}
            for each in ("__slots__", "__orig_bases__"):
                if each in vars(cls):
                    body[each] = vars(cls)[each]
            if typing.NamedTuple in bases:  # it would make another class of one that it has made
                bases = cls.__bases__
            args = (metaclass, name, bases, body, *rest)
        return _make_class, (make, args), (attributes, slots, members), None, None, _set_class


class PicklerForProgram(Pickler):
    """Pickles what a worker returns. The program has what it has sent under the same names."""

    def _may_name(self, root: str) -> bool:
        return script_globals.is_of_program(root)


class PicklerOfRaised(PicklerForProgram):
    """Pickles an exception that a task has raised, with those that led to it."""

    def _reduce_exception(self, error: BaseException) -> Any:
        return exception_pickling.reduce(
            error, {**exception_pickling.attributes_of(error), **exception_pickling.chain_of(error)}
        )


class PicklerOfRaisedParts(PicklerForProgram):
    """Pickles an exception that a task has raised, without those of its attributes that cannot be pickled."""

    def _reduce_exception(self, error: BaseException) -> Any:
        attributes = exception_pickling.attributes_of(error)
        return exception_pickling.reduce(error, {name: each for name, each in attributes.items() if _is_sendable(each)})


def _is_sendable(value: object) -> bool:
    try:
        PicklerOfRaisedParts(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception:
        return False
    return True


class PicklerOfGlobals(Pickler):
    """Pickles the definitions of globals: those named in `defines` by value."""

    dispatch_table: ClassVar[Any] = ChainMap(reducers.REDUCERS_OF_GLOBALS, Pickler.dispatch_table)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.defines: Mapping[Key, object] = {}
        self.others: Mapping[int, str] = {}
        """The names of the objects in `__main__` that several globals may share, by `id`."""

    def reducer_override(self, value: Any) -> Any:
        name = self.others.get(id(value))
        if name is not None and Key(MAIN, name) not in self.defines:
            self.refers.add(Key(MAIN, name))
            return script_globals.look_up, (MAIN, name)
        return super().reducer_override(value)

    def _may_name(self, root: str) -> bool:
        return Key(MAIN, root) not in self.defines


def _reduce_type_variable(value: TypeVar) -> Any:
    if value.__module__ not in MAINS:
        make, args = parts_of_cloudpickle._typevar_reduce(value)
        if make is getattr:
            return make, args
    made = parts_of_cloudpickle._make_typevar, parts_of_cloudpickle._decompose_typevar(value)
    return *made, value.__module__, None, None, _set_module


def _is_no_file(part: object) -> bool:
    return isinstance(part, str) and part == _NO_FILE  # comparing bytes with str is a BytesWarning


def _is_type(value: object) -> bool:
    return isinstance(value, (type, ModuleType, *reducers.NAMED)) or type(value).__module__ in ("typing", "types")


def _looks_around(code: CodeType) -> bool:
    nested = (each for each in code.co_consts if isinstance(each, CodeType))
    return not _LOOKING.isdisjoint(code.co_names) or any(map(_looks_around, nested))


def _extra_of(member: Enum) -> dict[str, Any]:
    """Return the attributes that the program has set on a member of an enumeration, and its value, which may have
    changed since the class was made.
    """
    own = vars(member).items()
    return {
        name: value for name, value in own if name == "_value_" or not (name.startswith("_") and name.endswith("_"))
    }


# ── what a pickle calls when it is loaded ──


def _contents_of(cell: CellType) -> tuple[CellType, Any] | None:
    try:
        return cell, cell.cell_contents
    except ValueError:
        return None  # it is empty


def _make_function(code: CodeType, names: dict[str, Any], cells: tuple[CellType, ...], alone: bool) -> FunctionType:
    """Make a function; `alone`: its globals are those of the functions in the same pickle only."""
    return FunctionType(code, names if alone else script_globals.globals_for(names), None, None, cells)


def _set_function(
    function: FunctionType,
    state: tuple[dict[str, Any], dict[str, Any], Iterable[tuple[CellType, Any]], dict[str, Any] | None],
) -> None:
    attributes, slots, contents, own = state
    function.__globals__.update(own or {})
    del slots["__globals__"], slots["_cloudpickle_submodules"]  # the latter are imported by now
    for cell, value in contents:
        cell.cell_contents = value
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)


def _set_module(value: Any, module: str) -> None:
    value.__module__ = module


_unfinished: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that were made and have no attributes yet."""


def _make_class(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class that has this tracker's id, or make it without its attributes."""
    tracker = args[-2]
    known: type | None = parts_of_cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if known is not None:
        return known
    made: type | None = None
    if make is parts_of_cloudpickle._make_skeleton_class:
        metaclass, name, bases, attributes, *_ = args
        made = _made_quietly(metaclass, name, types.resolve_bases(bases), attributes)
    if made is None:
        made = make(*args)
    parts_of_cloudpickle._lookup_class_or_track(tracker, made)
    _unfinished.add(made)
    return made


def _made_quietly(metaclass: type, name: str, bases: tuple[type, ...], attributes: Mapping[str, Any]) -> type | None:
    """Make a class without running code of the program's metaclasses and base classes; return None if there is none.

    That code has run in the program, with the attributes that it needs; what it has done is in attributes and globals.
    """
    classes = [cls for base in bases for cls in base.__mro__]
    owner = next((cls for cls in classes if "__init_subclass__" in vars(cls)), object)
    hook = vars(owner)["__init_subclass__"]
    is_hooked = owner.__module__ in MAINS
    if not is_hooked and metaclass.__module__ not in MAINS:
        return None
    library: Any = next(cls for cls in metaclass.__mro__ if cls.__module__ not in MAINS)
    if is_hooked:
        type.__setattr__(owner, "__init_subclass__", classmethod(_do_nothing))
    try:
        made: type = library.__new__(metaclass, name, bases, dict(attributes))
    finally:
        if is_hooked:
            type.__setattr__(owner, "__init_subclass__", hook)
    return made


def _do_nothing(cls: type) -> None:
    pass


def _set_class(cls: type, state: tuple[dict[str, Any], dict[str, Any], Mapping[str, Mapping[str, Any]]]) -> None:
    """Set a class's attributes. The program's own classes are left as they are."""
    attributes, slots, members = state
    if cls not in _unfinished and not script_globals.is_shared():
        return
    _unfinished.discard(cls)
    parts_of_cloudpickle._class_setstate(cls, (attributes, slots))
    if "__pydantic_fields__" in attributes and hasattr(cls, "model_rebuild"):
        cls.model_rebuild(force=True, raise_errors=False)
    for name, extra in members.items():
        vars(cls.__members__[name]).update(extra)  # type: ignore[attr-defined]
