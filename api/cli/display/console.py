"""What the command writes: documents and tables on stdout, words on stderr, for people and for pipes.

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
"""Columns of a table in a pipe."""
RULE = 80
"""Of the line below a table's head there."""


def print_json(document: Any, *, one_line: bool = False) -> None:
    """Print one document on stdout, in ASCII: a token may hold a lone surrogate, which no encoding can write."""
    text = json.dumps(document, default=str) if one_line else json.dumps(document, default=str, indent=2)
    typer.echo(text)


class _Talk(Console):
    """What is said beside the data: when nobody reads it any more, the data go on (rich's own ends the program)."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def stderr_console(*, soft_wrap: bool = True) -> Console:
    """Return a console on stderr; with `soft_wrap` the terminal breaks long lines, and a copy of them stays whole."""
    return _Talk(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def print_table(table: RenderableType) -> None:
    """Print on stdout. In a pipe nothing is cut, and no line ends with spaces."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    Console(highlight=False, markup=False, emoji=False, width=WIDE, file=text).print(table)
    for line in text.getvalue().splitlines():
        typer.echo(line.rstrip() if line.strip("─ ") else line[:RULE])


def print_lines(lines: Iterable[Text]) -> None:
    """Print lines on stdout that are as wide as they are to be."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def stdout_columns() -> int:
    """Return how many characters a line of stdout has room for."""
    console = Console()
    return console.width if console.is_terminal else WIDE
