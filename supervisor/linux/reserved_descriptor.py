"""A descriptor that is kept for a moment when the program may have none left.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import os


class ReservedDescriptor:
    """Its methods are called under one lock."""

    def __init__(self) -> None:
        self._descriptor = -1

    def keep(self) -> None:
        """Open the descriptor, unless it is open. Raise OSError if there is none."""
        if self._descriptor < 0:
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give_up(self) -> None:
        """Close the descriptor, so that the next call that opens one can have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
