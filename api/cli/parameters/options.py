"""Options that several verbs share, and the parsers of their values.

Runs in: any machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from killable.workers.authoring.limits import LIMITS, Unit
from killable.workers.authoring.units import parse_seconds

if TYPE_CHECKING:
    from killable.api.client.client import Client
    from killable.workers.errors import KillableError

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


@contextmanager
def open_client(url: str) -> Iterator[Client]:
    """Yield a client. What it warns of is a line on stderr, and not a place in this program.

    Raise Unreachable for an answer that the body could not use.
    """
    from killable.api.cli.display import console
    from killable.api.client.client import Client
    from killable.workers.errors import KillableError  # here: help does not need it

    with warnings.catch_warnings(record=True) as caught:
        client = Client(url)
    for warning in caught:
        console.stderr_console().print(f"warning: {warning.message}", style="yellow")
    with client:
        try:
            yield client
        except KillableError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise _odd_answer(client.address, error) from error


def _odd_answer(address: str, error: Exception) -> KillableError:
    """Return the error for an answer whose members are missing or of other types, by where that was noticed."""
    import traceback

    from killable.api.client.outcomes import Unreachable

    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__}: {error}, at {Path(at.filename).name}:{at.lineno}"
    return Unreachable(
        f"an answer of {address} does not have what one of a killable server of this version has ({where}): "
        "is it another server or version? If not, it is a fault of this command",
        url=address,
    )
