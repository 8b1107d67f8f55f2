"""The memory file into which a worker's stacks are written, by its handler and by faulthandler.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import os

import killable.workers
from killable.supervisor import stack

OUR_FOLDER = os.path.dirname(killable.workers.__file__).encode("utf-8", "backslashreplace").decode()
"""As it stands in a stack."""
BYTES_MAX = 64 << 10
"""Of a stack: faulthandler shows a hundred frames of each thread, a hundred threads at most."""


class StackFile:
    """Owns its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begin = 0
        """How much of it earlier jobs had written."""
        self._asked: int | None = None
        """How much of it the job had written when our first signal went out; None: no stack was asked for."""

    def begin(self) -> None:
        """Another job begins."""
        self._begin = self._size()

    def ask(self) -> None:
        """A signal goes out for which a stack is written."""
        if self._asked is None:
            self._asked = self._size()

    def text(self) -> str | None:
        """Return the stack of the fault that has ended the job, or that which was asked for; None: neither."""
        fault = stack.of_fault(self._read(self._begin))
        if fault:
            return stack.of_job(stack.readable(fault), OUR_FOLDER) or None
        asked = self._read(self._asked)
        return stack.trim(stack.readable(asked), OUR_FOLDER) if asked else None

    def is_whole(self) -> bool:
        """Tell whether the stack that was asked for has been written to its end."""
        return stack.is_whole(self._read(self._asked))

    def close(self) -> None:
        """Harmless when that was done."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _size(self) -> int:
        return 0 if self._descriptor < 0 else os.fstat(self._descriptor).st_size

    def _read(self, begin: int | None) -> str:
        if self._descriptor < 0 or begin is None:
            return ""
        try:
            return os.pread(self._descriptor, BYTES_MAX, begin).decode("utf-8", "replace")
        except OSError:
            return ""  # memory that was swapped out and cannot be read back
