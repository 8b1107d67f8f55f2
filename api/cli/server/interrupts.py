"""Ctrl-C at the right moment: a request that must not be lost is finished before the interrupt is raised.

Runs in: any machine, main thread.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 2
"""Interrupts that are held back; the next one gets through: the server may not be answering at all."""


def terminations() -> list[signal.Signals]:
    """Return what ends a program as Ctrl-C does: SIGTERM (a shell's `timeout`, a service being stopped), and SIGHUP (a
    window is closed) unless whoever started it has it ignored (nohup(1)).
    """
    found = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # Windows has none
        found.append(signal.SIGHUP)
    return found


def treat_terminations_as_interrupts() -> None:
    """Let them end what Ctrl-C would end."""
    for number in terminations():
        signal.signal(number, signal.default_int_handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold interrupts back until the body is done, then raise KeyboardInterrupt if there was one."""
    noted = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted += 1
        if noted > PATIENCE:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, *terminations())
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt
