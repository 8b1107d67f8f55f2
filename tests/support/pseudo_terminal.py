"""The command in a pseudo terminal: the text on the screen, and the output that went through a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from dataclasses import dataclass
from typing import Any

from support.killable_command import Command

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_ERASE_LINE = "\r\x1b[2K"


@dataclass(frozen=True, slots=True)
class Screen:
    """What was written to the terminal, and to stdout where that was a pipe."""

    raw: str
    piped: str
    exit_code: int

    @property
    def lines(self) -> list[str]:
        """What stands there in the end, without styles; lines that were erased are gone."""
        text = _STYLE.sub("", self.raw).replace("\r\n", "\n")
        return [line.rpartition(_ERASE_LINE)[2] for line in text.split("\n")]


def on_screen(command: Command, *args: str, columns: int = 80, pipe_stdout: bool = False, **env: str) -> Screen:
    """Run the command in a terminal of so many columns, to its end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    options: dict[str, Any] = {"stdin": theirs, "stderr": theirs, "stdout": subprocess.PIPE if pipe_stdout else theirs}
    with command.start(*args, env={"TERM": "xterm-256color", "COLUMNS": "", **env}, **options) as process:
        os.close(theirs)
        raw = b"".join(iter(lambda: _read(ours), b""))
        piped = process.stdout.read() if process.stdout is not None else ""
        process.wait(60)
    os.close(ours)
    return Screen(raw.decode(), piped, process.returncode)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: the last process that had it open has ended (pty(7))
        return b""
