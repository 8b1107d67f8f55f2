"""Reads what a function declares: its parameters, which of them is the Context, where it stands, what it requires.

Runs in: zygote, worker.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace, UnionType
from typing import Any, Union

from killable.workers.context import Context
from killable.workers.schema import shape_of
from killable.workers.shapes import ANYTHING, REQUIRED, Member, NoJsonForm, Shape

Function = Callable[..., Any]

_CONTEXT_TEXT = re.compile(r"(?:\w+\.)*Context(?: *\| *None)?")
"""How an annotation of the Context reads where its name stands under TYPE_CHECKING only and cannot be evaluated."""
_VARIADIC = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class DeclarationError(ValueError):
    """A function that cannot be what its decorator makes of it; the message names the function and the cause."""


def place_of(function: Function) -> str:
    """Return where a function stands: `module:qualname (file:line)`."""
    inner: Any = inspect.unwrap(function)
    code = inner.__code__
    return f"{inner.__module__}:{inner.__qualname__} ({code.co_filename}:{code.co_firstlineno})"


def check_function(decorator: str, function: object) -> None:
    """Refuse what is no function, or one that needs an event loop. Raise DeclarationError."""
    inner: Any = inspect.unwrap(function)  # type: ignore[arg-type]  # anything may be decorated
    if not inspect.isfunction(inner):
        raise DeclarationError(f"@{decorator} is for functions, not for {function!r}")
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise DeclarationError(
            f"@{decorator} {place_of(inner)}: async def is not supported; write def, with asyncio.run(...) inside"
        )


def read_parameters(function: Function, *, typed: bool) -> tuple[list[Member], str | None]:
    """Return the members of a job's input, and the name of the parameter that is annotated Context.

    Not `typed`: the values are Python objects already, so their annotations say nothing. Raise DeclarationError.
    """
    members: list[Member] = []
    context: str | None = None
    for parameter in _signature(function).parameters.values():
        if parameter.kind in _VARIADIC:
            starred = _VARIADIC[parameter.kind] + parameter.name
            raise _refusal(function, starred, "cannot be filled: an input's members are known and go by name")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise _refusal(function, parameter.name, "is positional-only, and an input's members go by name")
        annotation = _evaluate(parameter.annotation, function, parameter.name)
        if _is_context(annotation):
            if context is not None:
                raise _refusal(function, parameter.name, f"is a second Context, beside {context!r}")
            context = parameter.name
            continue
        members.append(_member(function, parameter, annotation, typed))
    return members, context


def missing(requires: Mapping[str, str]) -> str:
    """Return what is not installed of `requires` (import name -> install line), and how to get it; empty: nothing."""
    return "; ".join(f"{name} is not installed: {line}" for name, line in requires.items() if not _is_installed(name))


def check_requires(decorator: str, function: Function, requires: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of `requires`. Raise DeclarationError."""
    requires = {} if requires is None else requires
    # Top-level names only: to find a module inside a package imports the package.
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
        # Annotations are evaluated when they are asked for: what stands under TYPE_CHECKING only must not raise here.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _evaluate(annotation: Any, function: Function, parameter: str) -> Any:
    """Return an annotation with the names in it looked up where the function was defined."""
    if annotation is inspect.Parameter.empty:
        return Any
    text = getattr(annotation, "__forward_arg__", annotation)
    try:
        holder = SimpleNamespace(__annotations__={parameter: annotation})
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        return typing.get_type_hints(holder, namespace, include_extras=True)[parameter]
    except NameError as error:
        if isinstance(text, str) and _CONTEXT_TEXT.fullmatch(text):
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


def _member(function: Function, parameter: inspect.Parameter, annotation: Any, typed: bool) -> Member:
    default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
    if type(default).__name__ == "FieldInfo":
        # As in a pydantic model; but this function would be called with the Field itself.
        raise _refusal(function, parameter.name, "has a Field as its default; write Annotated[int, Field(...)]")
    try:
        shape: Shape = shape_of(annotation, parameter.name) if typed else ANYTHING
    except NoJsonForm as error:
        raise _refusal(function, parameter.name, str(error)) from error
    return Member(parameter.name, shape, default)


def _refusal(function: Function, parameter: str, why: str) -> DeclarationError:
    return DeclarationError(f"@job {place_of(function)}: parameter {parameter!r} {why}")


def _is_installed(name: str) -> bool:
    return sys.modules.get(name) is not None or importlib.util.find_spec(name) is not None
