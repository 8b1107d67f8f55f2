"""The stack of a crash in native code: faulthandler writes it to a memory file as the process dies.

Runs in: worker.
"""

from __future__ import annotations

import faulthandler
import signal

_NOWHERE = 2**31 - 1
"""No descriptor has this number."""
_FATAL = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)


class CrashStack:
    """Directs faulthandler to the memory file. If it is enabled, only its file changes: it replaces no handler."""

    def __init__(self, descriptor: int) -> None:
        self._on_stderr = faulthandler.is_enabled()
        """Whether PYTHONFAULTHANDLER or a preload has enabled it."""
        handled = _are_handled()
        if not handled:
            faulthandler.disable()  # it may be enabled with handlers that were reset after the fork
        if self._on_stderr or not handled:
            faulthandler.enable(file=descriptor, all_threads=True)

    def close_in_child(self) -> None:
        """Restore the earlier file in a process that the job forked: its crashes are not the worker's."""
        if faulthandler.is_enabled():
            # Not `disable`: it would also remove a handler that the job has installed since.
            faulthandler.enable(file=2 if self._on_stderr else _NOWHERE, all_threads=True)


def _are_handled() -> bool:
    """Return whether a library has installed handlers; WebAssembly engines, for one, continue after their traps."""
    with open("/proc/self/status", "rb") as status:
        caught = int(status.read().partition(b"SigCgt:")[2].split(maxsplit=1)[0], 16)
    return any(caught >> (number - 1) & 1 for number in _FATAL)
