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


def treat_terminations_as_interrupts() -> None:
    """Let SIGTERM (a shell's `timeout`, a service being stopped) end what Ctrl-C would end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold interrupts back until the body is done, then raise KeyboardInterrupt if there was one."""
    noted = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted += 1
        if noted > PATIENCE:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt
