"""The job types of an Executor's pool: call a function that came with the job, and return or stream its results.

Runs in: worker. The program that owns the Executor pickled the function (`pickling`), so both have the same author.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import CoroutineType, GeneratorType
from typing import Any

from killable.workers.authoring.context import Context
from killable.workers.authoring.registered_types import register
from killable.workers.runtime import program_logging
from killable.workers.runtime.executor_setup import CALL, STREAM

MakeContext = Callable[[], Context]


def call(ctx: Context, function: Any, args: Any, kwargs: Any) -> Any:
    """Call the function. If it is a generator, its yields are sent one by one, and its return value is the result."""
    return call_function(lambda: ctx, function, args, kwargs)


def stream(ctx: Context, function: Any, args: Any, kwargs: Any) -> Any:
    """Call the function, and send the items that it yields or returns one by one."""
    return stream_function(lambda: ctx, function, args, kwargs)


def call_function(make_context: MakeContext, function: Any, args: Any, kwargs: Any) -> Any:
    """Call a function. `make_context` is called if it has a parameter for a Context."""
    program_logging.begin_task()
    args, kwargs = _with_context(function, args, kwargs, make_context)
    value = function(*args, **kwargs)
    if type(value) is CoroutineType:
        value.close()
        raise TypeError(
            "the function returned a coroutine, which nothing runs; run it inside the function: asyncio.run(...)"
        )
    return value


def stream_function(make_context: MakeContext, function: Any, args: Any, kwargs: Any) -> Any:
    """Call a function as `call_function` does; return a generator of the items that it yields or returns."""
    program_logging.begin_task()
    args, kwargs = _with_context(function, args, kwargs, make_context)
    found = function(*args, **kwargs)
    if isinstance(found, GeneratorType):
        return found
    try:
        return _each(iter(found))
    except TypeError as error:
        raise TypeError(f"{error}: stream takes a function that yields or returns an iterable") from error


class CallType:
    """A job type of an Executor: a registered job without a declaration, whose input the Executor itself has made."""

    retried = ()
    """A task asks for another attempt by a `Retry`."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function

    def bind(self, input: Mapping[str, Any], context: Context) -> dict[str, Any]:
        return {"ctx": context, **input}

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": "",
            "input_schema": {},
            "limits": {},
            "operations": [],
            "streams": False,
            "on_loss": "fail",
            "retry_on": [],
            "retry_codes": [],
            "available": True,
            "unavailable_reason": "",
        }


register(CallType(CALL, call))
register(CallType(STREAM, stream))


def _each(items: Iterable[Any]) -> Generator[Any, None, None]:
    yield from items


Arguments = tuple[Sequence[Any], Mapping[str, Any]]


def _with_context(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], make_context: MakeContext
) -> Arguments:
    """Add the Context to the arguments, if a parameter of the function is annotated so."""
    annotations = _annotations(function)
    if not annotations or not any(map(_may_be_context, annotations.values())):
        return args, kwargs
    for name, kind in _resolved(function, annotations).items():
        if kind is Context and name != "return" and name not in kwargs:
            place = _place(function, name)
            if place is not None and place < len(args):
                return (*args[:place], make_context(), *args[place:]), kwargs
            return args, {**kwargs, name: make_context()}
    return args, kwargs


def _place(function: Any, name: str) -> int | None:
    """Return the position of a parameter; None if it can be given only by name."""
    import inspect  # here: 5 ms of the first worker's start, and few functions have such a parameter

    how: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        import annotationlib

        how["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        parameters = list(inspect.signature(function, **how).parameters.values())
    except Exception:  # it has no signature that can be read
        return None
    by_place = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return next((place for place, each in enumerate(parameters) if each.name == name and each.kind in by_place), None)


def _annotations(function: Any) -> Mapping[str, Any]:
    """Return the annotations of a function unevaluated: they may name what does not exist at run time."""
    if sys.version_info >= (3, 14):  # they are evaluated when they are read
        import annotationlib

        try:
            return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
        except TypeError:
            return {}  # not an object that has annotations
    return getattr(function, "__annotations__", None) or {}


def _may_be_context(kind: object) -> bool:
    return kind is Context or (isinstance(kind, str) and kind.endswith("Context"))


def _resolved(function: Any, annotations: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the annotations evaluated; those that only a type checker understands stay as they are."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # it evaluates code of the program, which may raise anything
        return {name: _evaluated(function, kind) for name, kind in annotations.items() if _may_be_context(kind)}


def _evaluated(function: Any, kind: object) -> object:
    import inspect

    try:
        return eval(kind, getattr(inspect.unwrap(function), "__globals__", {})) if isinstance(kind, str) else kind
    except Exception:
        return kind
