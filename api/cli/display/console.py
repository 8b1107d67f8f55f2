"""Write documents and tables to stdout and messages to stderr, in a terminal or a pipe.

Runs in: any machine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

WIDE = 1000
"""Width of a table in a pipe, in columns."""
RULE = 80
"""Width of the rule below its header there."""


def print_json(document: Any, *, one_line: bool = False) -> None:
    """Print one document on stdout, in ASCII: a token may contain a lone surrogate, which UTF-8 cannot encode."""
    text = json.dumps(document, default=str) if one_line else json.dumps(document, default=str, indent=2)
    typer.echo(text)


class _BestEffortConsole(Console):
    """A console that goes quiet on a broken pipe, so that stdout goes on; rich's own ends the program."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def stderr_console(*, soft_wrap: bool = True) -> Console:
    """Return a console on stderr; with `soft_wrap` the terminal wraps long lines, and copied lines stay whole."""
    return _BestEffortConsole(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def print_table(table: RenderableType) -> None:
    """Print on stdout. In a pipe, nothing is truncated and no line ends with spaces."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    Console(highlight=False, markup=False, emoji=False, width=WIDE, file=text).print(table)
    for line in text.getvalue().splitlines():
        typer.echo(line.rstrip() if line.strip("─ ") else line[:RULE])


def print_lines(lines: Iterable[Text]) -> None:
    """Print lines on stdout without wrapping them."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def stdout_columns() -> int:
    """Return the width of stdout in characters."""
    console = Console()
    return console.width if console.is_terminal else WIDE
