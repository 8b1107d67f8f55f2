"""Read a function's declaration: its parameters, the one that is the Context, its location, its requirements.

Runs in: zygote, worker.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from types import FunctionType, SimpleNamespace, UnionType
from typing import Any, Union

from killable.workers.authoring.context import Context
from killable.workers.authoring.input_schema import annotation_type, name_of
from killable.workers.authoring.input_types import ANYTHING, REQUIRED, InputFault, InputType, Member, NoJsonForm
from killable.workers.authoring.registered_types import DeclarationError
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

Function = Callable[..., Any]

_CONTEXT_TEXT = r"(?:\w+\.)*Context(?: *\| *None)?"
"""The text of a Context annotation that cannot be evaluated, since its name is imported under TYPE_CHECKING only."""


class Parameters(NamedTuple):
    """The parameters of a job function."""

    members: list[Member]
    """The members of the input."""
    context: str | None
    """The name of the parameter annotated `Context`."""
    rest: tuple[str, InputType] | None
    """The name of the ** parameter, and the type of each value that it takes."""


def inner_of(function: object) -> FunctionType | None:
    """Return the Python function inside a callable, through wrappers, partials and bound methods.

    None if there is none: for a class, a function written in C, or an object that cannot be called.
    """
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__") and not isinstance(function, type):
            function = function.__wrapped__
        else:
            break
    if isinstance(function, FunctionType):
        return function
    call = None if isinstance(function, type) else getattr(type(function), "__call__", None)  # noqa: B004
    return inner_of(call) if inspect.isfunction(call) else None


def place_of(function: Function) -> str:
    """Return the location of a function: `module:qualname (file:line)`."""
    inner = inner_of(function)
    assert inner is not None, function
    code = inner.__code__
    return f"{inner.__module__}:{inner.__qualname__} ({code.co_filename}:{code.co_firstlineno})"


def check_function(decorator: str, function: object) -> None:
    """Raise DeclarationError for an object that is not a function, and for a function that needs an event loop."""
    if isinstance(function, classmethod):
        raise DeclarationError(
            f"@{decorator} {place_of(function.__func__)}: a classmethod cannot be registered inside its class;"
            f' below the class, write {decorator}("name")(Class.method)'
        )
    inner = inner_of(function)
    if inner is None or not callable(function):
        raise DeclarationError(
            f"@{decorator} is for functions written in Python, not for {function!r}; write a def that calls it"
        )
    # An author's wrapper may run an async function in a loop of its own: check the function that is called.
    called = function if inspect.isfunction(function) else inner
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise DeclarationError(
            f"@{decorator} {place_of(function)}: async def is not supported; write def, with asyncio.run(...) inside"
        )


def read_parameters(function: Function, *, typed: bool) -> Parameters:
    """Return the parameters of a job function. Not `typed`: its inputs are Python objects, so annotations are ignored.

    Raise DeclarationError.
    """
    members: list[Member] = []
    context: str | None = None
    rest: tuple[str, InputType] | None = None
    for place, parameter in enumerate(_signature(function).parameters.values()):
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise _refusal(
                function,
                f"*{name}",
                "is not supported: the members of an input have names; use a parameter that takes a list",
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise _refusal(
                function, name, "is positional-only, but the members of an input are passed by name; remove the /"
            )
        annotation = _evaluate(parameter.annotation, function, name)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            rest = name, _shape(function, f"**{name}", annotation, typed)
        elif _is_context(annotation):
            if context is not None:
                raise _refusal(function, name, f"is a second Context besides {context!r}; only one is allowed")
            context = name
        else:
            if parameter.annotation is inspect.Parameter.empty:
                _check_name(function, name, first=place == 0)
            members.append(_member(function, parameter, annotation, typed))
    return Parameters(members, context, rest)


def check_requires(decorator: str, function: Function, requires: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of `requires`. Raise DeclarationError."""
    requires = {} if requires is None else requires
    # Top-level names only: finding a module inside a package imports the package.
    if not isinstance(requires, Mapping) or not all(
        isinstance(name, str) and name.isidentifier() and isinstance(line, str) for name, line in requires.items()
    ):
        raise DeclarationError(
            f"@{decorator} {place_of(function)}: requires maps import names (top level) to install lines,"
            f" not {requires!r}"
        )
    return dict(requires)


def _signature(function: Function) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # Annotations are evaluated when they are read: names imported under TYPE_CHECKING only must not raise here.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _evaluate(annotation: Any, function: Function, parameter: str) -> Any:
    """Return an annotation, evaluated in the namespace of the function's module."""
    if annotation is inspect.Parameter.empty:
        return Any
    text = getattr(annotation, "__forward_arg__", annotation)
    try:
        holder = SimpleNamespace(__annotations__={parameter: annotation})
        namespace = getattr(inner_of(function), "__globals__", {})
        return typing.get_type_hints(holder, namespace, include_extras=True)[parameter]
    except NameError as error:
        if isinstance(text, str) and re.fullmatch(_CONTEXT_TEXT, text):
            return Context
        raise _refusal(
            function, parameter, f"has an annotation that cannot be evaluated ({error}): import its names above the job"
        ) from error
    except (SyntaxError, TypeError, AttributeError) as error:
        raise _refusal(function, parameter, f"has an annotation that cannot be evaluated: {error}") from error


def _is_context(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, UnionType):
        return Context in typing.get_args(annotation)
    return annotation is Context


def _check_name(function: Function, name: str, *, first: bool) -> None:
    """Refuse a parameter without annotation that would be a member of the input only by mistake."""
    if name == "ctx":
        raise _refusal(function, name, "has no annotation, so it would be a member of the input; write ctx: Context")
    inner = inner_of(function)
    in_class = inner is not None and "." in inner.__qualname__.rpartition("<locals>.")[2]
    if first and name in ("self", "cls") and in_class:
        raise _refusal(
            function,
            name,
            'would be a member of the input; below the class, write job("name")(Class().method), or use a staticmethod',
        )


def _member(function: Function, parameter: inspect.Parameter, annotation: Any, typed: bool) -> Member:
    name = parameter.name
    default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
    if type(default).__name__ == "FieldInfo":
        # As in a pydantic model, but this function would be called with the Field itself.
        raise _refusal(function, name, "has a Field as its default; write Annotated[int, Field(...)]")
    input_type = _shape(function, name, annotation, typed)
    if typed and default is not REQUIRED:
        _check_default(function, name, annotation, input_type, default)
    return Member(name, input_type, default)


def _check_default(function: Function, name: str, annotation: Any, input_type: InputType, default: Any) -> None:
    """Refuse a default that the schema cannot show, or that would be refused as an input."""
    try:
        shown = input_type.plain(default)
        dump_json(shown)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(
            function,
            name,
            f"has a default that is not JSON, {default!r}; use None and create it in the function",
        ) from error
    faults: list[InputFault] = []
    input_type.convert(shown, "", faults)
    if faults:
        meant = f"{name_of(annotation)} | None" if default is None else "an annotation that takes it"
        raise _refusal(
            function, name, f"has the default {default!r}, which does not fit ({faults[0].message}); write {meant}"
        )


def _shape(function: Function, parameter: str, annotation: Any, typed: bool) -> InputType:
    if not typed:
        return ANYTHING
    if Context in typing.get_args(annotation):
        raise _refusal(function, parameter, "has Context inside a larger annotation; write ctx: Context")
    try:
        return annotation_type(annotation, parameter.lstrip("*"))
    except NoJsonForm as error:
        raise _refusal(function, parameter, str(error)) from None


def _refusal(function: Function, parameter: str, why: str) -> DeclarationError:
    return DeclarationError(f"@job {place_of(function)}: parameter {parameter!r} {why}")
