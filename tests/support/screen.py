"""A program in a pseudo terminal whose screen is read while it runs: what a person sees there, and what is typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable
from typing import Any, Self

import pyte
from support.killable_command import Command

WAIT_S = 30.0


class LiveScreen:
    """A program in a terminal of so many columns and lines. A context manager; it is killed at the end."""

    def __init__(self, command: Command, *args: str, columns: int = 80, lines: int = 24, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        environment = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **env}
        self.process = command.start(
            *args, env=environment, start_new_session=True, preexec_fn=_take_terminal, **streams
        )  # fmt: skip
        self._theirs = theirs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        for each in (self._theirs, self._ours):
            if each >= 0:
                os.close(each)

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)

    def hang_up(self) -> None:
        """Close the terminal: the kernel sends SIGHUP."""
        os.close(self._theirs)
        self._theirs = -1
        os.close(self._ours)
        self._ours = -1

    def until(self, *wanted: Callable[[str], bool] | str) -> str:
        """Read until the screen is so, and has these texts; return it. One drawing comes in pieces: what is asserted of
        the screen that is returned may be a piece later than what was waited for.
        """

        def is_so(text: str) -> bool:
            return all(each(text) if callable(each) else each in text for each in wanted)

        deadline = time.monotonic() + WAIT_S
        while not is_so(self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"the screen is\n{self.text}"
            if not self._read(left):
                assert is_so(self.text), f"the program has ended, and the screen is\n{self.text}"
                break
        return self.text

    def ended(self) -> int:
        """Read to the end of the program; return its exit code."""
        deadline = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on, and the screen is\n{self.text}"
            if self._ours >= 0:
                self._read(0.05)
        while self._ours >= 0 and self._read(0):
            pass
        return self.process.returncode

    @property
    def modes(self) -> list[Any]:
        """How the terminal is set now (termios)."""
        return termios.tcgetattr(self._theirs)

    def _read(self, timeout_s: float) -> bool:
        """Read what has come; return whether anything has."""
        ready, _, _ = select.select([self._ours], [], [], min(timeout_s, 0.5))
        if not ready:
            return timeout_s > 0 and self.process.poll() is None
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)


def _take_terminal() -> None:
    """Make stdin the controlling terminal: Ctrl-C, a new size and its end are signals then."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
