"""The memory file into which a worker's signal handler and faulthandler write stacks.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import os

import killable.workers
from killable.supervisor.linux import readable_stack
from killable.workers.runtime.dump_signal import AT_SIGNAL

PACKAGE_FOLDER = os.path.dirname(killable.workers.__file__).encode("utf-8", "backslashreplace").decode()
"""The package's folder as it appears in a stack."""
BYTES_MAX = 64 << 10
"""Maximum size of a stack: faulthandler shows a hundred frames of each thread, and a hundred threads at most."""


class StackFile:
    """The stacks of one worker; owns the descriptor of the file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begin = 0
        """Size of the file when the job began."""
        self._asked: int | None = None
        """Size of the file when the first signal to the job, or the last dump signal, was sent; None: none was."""

    def begin(self) -> None:
        """Note that another job begins."""
        self._begin = self._size()

    def ask(self, *, again: bool = False) -> None:
        """Note that a signal is sent for which a stack is written. `again`: what was written before is not wanted."""
        if again or self._asked is None:
            self._asked = self._size()

    def text(self) -> str | None:
        """Return the stack of the fault that ended the job, or the requested one; None if there is neither."""
        fault = readable_stack.fault_stack(self._read(self._begin))
        if fault:
            return readable_stack.job_frames(readable_stack.readable(fault), PACKAGE_FOLDER) or None
        asked = self._read(self._asked)
        asked = asked[max(0, asked.rfind(AT_SIGNAL)) :]  # it was asked again shortly before it reacted
        return readable_stack.trim(readable_stack.readable(asked), PACKAGE_FOLDER) if asked else None

    def is_whole(self) -> bool:
        """Return whether the requested stack has been written completely."""
        return readable_stack.is_whole(self._read(self._asked))

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
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
