"""Signals to this process and its own process group, which no other process can be mistaken for.

Runs in: supervisor (`killable run`), main thread. Behind `ports`.
"""

from __future__ import annotations

import os
import resource
import signal


def stop_own_group() -> bool:
    """Stop this process group as its terminal would. Return True when it is continued, by a SIGCONT that is not
    handled any more; False at once if no shell would continue it, for then the kernel does not stop it.
    """
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCONT,))  # it continues a process that blocks it, too
    os.killpg(0, signal.SIGTSTP)
    was_continued = signal.sigtimedwait((signal.SIGCONT,), 0) is not None
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGTSTP, before)
    return was_continued


def die_of(number: int, *, group: bool) -> None:
    """End this process by a signal, without a core dump of its own, as what it has run has ended. `group`: all of its
    process group, to which the terminal would have sent the signal. Return if it is blocked.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    if group:
        os.killpg(0, number)
    os.kill(os.getpid(), number)
