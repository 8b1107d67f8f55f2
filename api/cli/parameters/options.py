"""Options that several verbs share, and the parsers of their values.

Runs in: any machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from killable.workers.authoring.limits import LIMITS, Unit
from killable.workers.authoring.units import parse_seconds

if TYPE_CHECKING:
    from killable.api.client.client import Client

NO_LIMIT = "none"


def seconds(text: str) -> float:
    """Read `2s`, `1h30m`, `250ms` or a number of seconds."""
    return _read(parse_seconds, text)


def _read(parse: Callable[[object], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class LimitOption:
    """Parses one limit by its unit; `none` for no limit. Of `operation_s` it parses the seconds of one operation."""

    def __init__(self, name: str) -> None:
        unit = LIMITS[name].unit
        self._parse = parse_seconds if unit is Unit.OPERATIONS else unit.parse
        self.__name__ = name  # Click reads the name of a parser

    def __call__(self, text: str) -> str | float:
        # None is an option that is not given: `none` stays a text here, and `limits_of` turns it into None.
        return NO_LIMIT if text == NO_LIMIT else _read(self._parse, text)


def open_client(url: str) -> Client:
    """Create a client. What it warns of is a line on stderr, and not a place in this program."""
    from killable.api.cli.display import console
    from killable.api.client.client import Client

    with warnings.catch_warnings(record=True) as caught:
        client = Client(url)
    for warning in caught:
        console.stderr_console().print(f"warning: {warning.message}", style="yellow")
    return client
