"""Write documents and tables to stdout and messages to stderr, in a terminal or a pipe.

Runs in: any machine. What comes from jobs and clients is in nearly all of it. A terminal obeys control characters (it
moves the cursor, sets its title, answers into the shell), so it gets signs for them; a pipe gets them as they are.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

WIDE = 1000
"""Width of a table in a pipe, in columns."""
RULE = 80
"""Width of the rule below its header there."""


def print_json(document: Any, *, one_line: bool = False) -> None:
    """Print one document on stdout, in ASCII: a token may contain a lone surrogate, which UTF-8 cannot encode."""
    text = json.dumps(document, default=str) if one_line else json.dumps(document, default=str, indent=2)
    click.echo(text)


def discard(stream: TextIO) -> None:
    """Write what a stream holds, and what follows, nowhere: else the interpreter would fail over it at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def has_reader(stream: TextIO) -> bool:
    """Return whether somebody may still read what is written to a stream: its pipe, socket or terminal is open. Raise
    OSError if the command was started without it.
    """
    if hasattr(stream, "buffer"):
        stream.buffer.write(b"")  # a `ClosedStream` raises
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except (OSError, ValueError):  # it has no descriptor
        return True
    return not poll.poll(0)


_VISIBLE: dict[int, int] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},  # Unicode's control pictures
    0x7F: 0x2421,
    # C1, and what changes the direction of a text (Unicode UAX 9): one could hide behind it what a line says.
    **dict.fromkeys(
        (*range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)), 0xFFFD
    ),
}


def visible(text: str) -> str:
    """Return a text with signs in place of control characters, but for tabs and line ends."""
    return text.translate(_VISIBLE)


def write(text: str | bytes) -> None:
    """Write what a job gives to stdout, and nothing else: bytes too, and unchanged but on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(visible(text if isinstance(text, str) else text.decode(errors="backslashreplace")))
        sys.stdout.flush()
        return
    if isinstance(text, str):
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


class _Console(Console):
    """A console that shows control characters on a terminal instead of obeying them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        segments = super().render(renderable, options)
        if not self.is_terminal:
            yield from segments
            return
        for segment in segments:
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """Raise what happened, for who can tell what it means; rich's own ends the program, as click does then."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class _BestEffortConsole(_Console):
    """A console that goes quiet on a broken pipe, so that stdout goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def stderr_console(*, soft_wrap: bool = True) -> Console:
    """Return a console on stderr; with `soft_wrap` the terminal wraps long lines, and copied lines stay whole."""
    return _BestEffortConsole(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def stdout_console() -> Console:
    """Return a console on stdout."""
    return _Console(highlight=False, markup=False, emoji=False)


def print_table(table: RenderableType) -> None:
    """Print on stdout. In a pipe, nothing is truncated and no line ends with spaces."""
    console = stdout_console()
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    Console(highlight=False, markup=False, emoji=False, width=WIDE, file=text).print(table)
    head = 0
    for line in text.getvalue().splitlines():
        is_rule = not line.strip("─ ")
        click.echo(line[: max(RULE, head)] if is_rule else line.rstrip())
        head = head or len(line.rstrip())


def print_lines(lines: Iterable[Text]) -> None:
    """Print lines on stdout without wrapping them."""
    console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def stdout_columns() -> int:
    """Return the width of stdout in characters."""
    console = Console()
    return console.width if console.is_terminal else WIDE
