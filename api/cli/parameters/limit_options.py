"""The limits of a job, as the options of `submit` give them.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from killable.api.cli.parameters.option_values import NO_LIMIT, LimitOption


def limits_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that were given, as the server expects them."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "operation_s" in given:
        given["operation_s"] = _operations(given["operation_s"])
    return {name: None if value == NO_LIMIT else value for name, value in given.items()}


def _operations(pairs: Sequence[str]) -> dict[str, Any]:
    """Return seconds by operation. Raise click.BadParameter."""
    read = LimitOption("operation_s")
    seconds: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{pair!r} is not of the form NAME=SECONDS", param_hint="--operation-s")
        value = read(text)
        seconds[name] = None if value == NO_LIMIT else value
    return seconds
