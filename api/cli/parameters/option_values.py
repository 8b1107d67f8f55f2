"""Parsers of the values of options: seconds, and limits by their unit.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from killable.workers.authoring.limits_and_caps import LIMITS, Unit
from killable.workers.authoring.units import parse_seconds

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
