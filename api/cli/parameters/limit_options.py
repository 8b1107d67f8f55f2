"""The options of `submit` that set limits, one for each: `--run-s` sets `run_s`.

Runs in: any machine.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import typer

from killable.api.cli.parameters.options import NO_LIMIT, LimitOption
from killable.workers.authoring.limits import LIMITS, Unit

_METAVARS = {Unit.SECONDS: "SECONDS", Unit.BYTES: "BYTES", Unit.COUNT: "NUMBER"}


def with_limit_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a verb, which receives those that were given as its parameter `limits`."""
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items() if name != "limits"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name))
        for name in LIMITS
    ]

    @functools.wraps(function)
    def verb(**given: Any) -> None:
        limits = limits_of({name: given.pop(name) for name in LIMITS})
        function(**given, limits=limits)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options)]
    verb.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in parameters}
    del verb.__wrapped__  # or Typer would read the parameters of `function`
    return verb


def _annotation(name: str) -> Any:
    limit = LIMITS[name]
    text = f"{limit.bounds[0].upper()}{limit.bounds[1:]}."
    panel: dict[str, Any] = {"help": text, "rich_help_panel": "Limits", "show_default": False}
    flag = f"--{name.replace('_', '-')}"
    if limit.unit is Unit.OPERATIONS:
        return Annotated[list[str] | None, typer.Option(flag, metavar="NAME=SECONDS", **panel)]
    return Annotated[Any, typer.Option(flag, parser=LimitOption(name), metavar=_METAVARS[limit.unit], **panel)]


def limits_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that were given, as the server expects them."""
    given = {name: value for name, value in options.items() if value is not None and value != []}
    if "operation_s" in given:
        given["operation_s"] = _operations(given["operation_s"])
    return {name: None if value == NO_LIMIT else value for name, value in given.items()}


def _operations(pairs: Sequence[str]) -> dict[str, Any]:
    """Return seconds by operation. Raise typer.BadParameter."""
    read = LimitOption("operation_s")
    seconds: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not name or not separator:
            raise typer.BadParameter(f"{pair!r} is not of the form NAME=SECONDS", param_hint="--operation-s")
        value = read(text)
        seconds[name] = None if value == NO_LIMIT else value
    return seconds
