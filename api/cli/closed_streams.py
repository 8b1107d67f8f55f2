"""Put something in the place of standard streams that the command was started without (`>&-` in a shell).

Runs in: any machine. Imported only where one is closed.

Else a socket or pipe of the command would get the number of a closed one, and what is written to that would go there.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class ClosedStream(io.RawIOBase):
    """A stream that is closed: each use says so, and nothing is kept that could fail once more at the end."""

    def __init__(self, number: int, name: str) -> None:
        self._number, self._name = number, name

    def fileno(self) -> int:
        return self._number

    def readable(self) -> bool:
        return self._number == 0

    def writable(self) -> bool:
        return self._number != 0

    def readinto(self, buffer: Any) -> int:
        raise self.error()

    def write(self, data: Any) -> int:
        raise self.error()

    def error(self) -> OSError:
        """Return the error of each read and write."""
        return OSError(f"{self._name} is closed")


def replace(*, are_passed_on: bool) -> None:
    """Open /dev/null where a standard stream is closed. Python's own stdin and stdout raise OSError when they are used:
    what was asked for would be lost. What is written to stderr is lost, as its messages may be.

    `are_passed_on`: processes that are started have them, too; else these are closed there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), are_passed_on)  # gets the lowest number that is free
        raw: io.RawIOBase = io.FileIO(number, "w", closefd=False) if name == "stderr" else ClosedStream(number, name)
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]
        setattr(sys, name, stream)
