"""Commands of Typer without imports that this command has no use for: half of the time of its help.

Runs in: any machine. Where another release of Typer is made otherwise, it works as it does by itself.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import typer.core

_UNUSED_IN_HELP = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
"""Modules that Typer's help imports, each for one class: for Markdown in help texts, and for pretty exceptions."""


class VerbCommand(typer.core.TyperCommand):
    """A verb."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        prepare_help()
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        gc.enable()
        return super().invoke(ctx)

    def get_params(self, ctx: Any) -> Any:
        return with_values_as_given(super().get_params(ctx))


def prepare_help() -> None:
    """Import the module of Typer that shows help, with empty classes in place of those that are not used."""
    if "typer.rich_utils" in sys.modules:
        return
    stand_ins = [name for name in _UNUSED_IN_HELP if name not in sys.modules]
    for name in stand_ins:
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], _UNUSED_IN_HELP[name], type(_UNUSED_IN_HELP[name], (), {}))
    try:
        import typer.rich_utils  # noqa: F401
    except ImportError:
        pass  # it needs more of them, or does not exist
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _AsGiven:
    """Takes what is not given, and text, as they are. For all else Typer asks pydantic, whose import takes 60 ms."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        described = param.type_descriptor
        if described.parameter_info.parser is None:
            if described.annotation is str and isinstance(value, str):
                return value
            if described.annotation == list[str] and isinstance(value, list | tuple) and set(map(type, value)) <= {str}:
                return list(value)
        param._runtime_param = None  # its own is made
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def with_values_as_given(parameters: Iterable[Any]) -> list[Any]:
    """Let these parameters of a command not validate text as text, nor what is not given."""
    found = list(parameters)
    for each in found:
        if getattr(each, "_runtime_param", each) is None:
            each._runtime_param = _AsGiven()
    return found
