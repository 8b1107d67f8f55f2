"""The signals that `killable run` is sent, as calls in its loop.

Runs in: supervisor (`killable run`), main thread. Behind `ports`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

_PASSED = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO",
    "SIGPWR", "SIGURG", "SIGWINCH", "SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU",
)  # fmt: skip
"""Those with names that can be caught, but for those of a fault of the process itself, and SIGCHLD."""


class CaughtSignals:
    """Catches every signal that may be meant for the command, from here on. One that was ignored stays ignored:
    nohup(1) ignores SIGHUP, and a shell ignores SIGINT for what it starts in the background.
    """

    def __init__(self) -> None:
        self.mask = sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        """The signals that were blocked before."""
        self.readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
        # Some programs start theirs with SIGCHLD ignored: the kernel would reap a child, and its status be lost.
        self._before: dict[int, Any] = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, signal.SIG_DFL)}
        real_time = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
        for number in (*(signal.Signals[name] for name in _PASSED), *real_time):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _note)

    def read(self, caught: Callable[[int], None]) -> None:
        """Call `caught` with each signal that has come."""
        try:
            for number in os.read(self.readable, 4096):
                caught(number)
        except BlockingIOError:
            pass

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        signal.set_wakeup_fd(-1)
        os.close(self.readable)
        os.close(self._writable)

    def close(self) -> None:
        """Restore what was before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(self.readable)
        os.close(self._writable)


def _note(_number: int, _frame: object) -> None:
    """Do nothing: Python writes the number to the wakeup descriptor only if a handler is set."""
