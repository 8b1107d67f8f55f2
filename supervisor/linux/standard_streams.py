"""The three standard streams, which a program may have been started without.

Runs in: supervisor (`killable run`). Behind `ports`.
"""

from __future__ import annotations

import os


def fill_closed() -> None:
    """Open /dev/null where a standard stream is closed: else a pipe of this process would get its number.

    It closes on exec, so that a command has closed what this process had closed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
