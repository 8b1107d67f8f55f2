"""Where native code was when it crashed: faulthandler writes it to the stack's memory file as the process dies.

Runs in: worker.
"""

from __future__ import annotations

import faulthandler
import signal

_NOWHERE = 2**31 - 1
"""No descriptor has this number."""
_FATAL = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)


class CrashStack:
    """Of this process. To enable what is enabled only changes where it writes: no handler of anybody's is touched."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is that of the memory file."""
        self._on_stderr = faulthandler.is_enabled()
        """As PYTHONFAULTHANDLER or a preload wants it."""
        handled = _are_handled()
        if not handled:
            faulthandler.disable()  # it may believe that it has handlers, which went with the zygote's
        if self._on_stderr or not handled:
            faulthandler.enable(file=descriptor, all_threads=True)

    def leave_to_parent(self) -> None:
        """In a process that it has forked, which has its faults to itself."""
        if faulthandler.is_enabled():
            # Not `disable`: a handler that the job has set since would go with it.
            faulthandler.enable(file=2 if self._on_stderr else _NOWHERE, all_threads=True)


def _are_handled() -> bool:
    """Tell whether a library has handlers of its own: WebAssembly engines, for one, go on after their traps."""
    with open("/proc/self/status", "rb") as status:
        caught = int(status.read().partition(b"SigCgt:")[2].split(maxsplit=1)[0], 16)
    return any(caught >> (number - 1) & 1 for number in _FATAL)
