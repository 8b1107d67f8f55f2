"""Where native code was when it crashed: faulthandler writes it to the stack's memory file as the process dies.

Runs in: worker.
"""

from __future__ import annotations

import faulthandler
import signal

_FATAL = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)


class FaultStack:
    """Of this process; what it forks has its faults to itself."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is that of the memory file."""
        self._on_stderr = faulthandler.is_enabled()
        """As PYTHONFAULTHANDLER or a preload wants it."""
        faulthandler.disable()  # its handlers may have gone with the zygote's, and would not come back
        self._is_ours = not _are_handled()
        if self._is_ours:
            faulthandler.enable(file=descriptor, all_threads=True)

    def leave_to_parent(self) -> None:
        """In a process that it has forked, before the memory file is closed there."""
        if self._is_ours:
            faulthandler.disable()
            if self._on_stderr:
                faulthandler.enable(file=2, all_threads=True)


def _are_handled() -> bool:
    """Tell whether a library has handlers of its own: WebAssembly engines, for one, go on after their traps."""
    with open("/proc/self/status", "rb") as status:
        caught = int(status.read().partition(b"SigCgt:")[2].split(maxsplit=1)[0], 16)
    return any(caught >> (number - 1) & 1 for number in _FATAL)
