"""The signals that interrupt a command; a request that must not be lost is finished before one takes effect.

Runs in: any machine, main thread. Imports little: a server begins with `note_hang_ups`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

DELAYED_MAX = 2
"""Interrupts that are delayed. The next one is raised at once: the server may not answer at all."""

T = TypeVar("T")

_hang_up_came = False


def note_hang_ups() -> None:
    """Let SIGHUP only be noted in this process from now on.

    It is a handler, and not SIG_IGN, which every process that is started would inherit.
    """
    signal.signal(signal.SIGHUP, _note_hang_up)


def _note_hang_up(number: int, frame: FrameType | None) -> None:
    global _hang_up_came
    _hang_up_came = True


def hang_up_came() -> bool:
    """Return whether SIGHUP was noted."""
    return _hang_up_came


def terminations() -> list[signal.Signals]:
    """Return the signals that end a program as Ctrl-C does.

    SIGTERM (timeout(1), a service manager), and SIGHUP (a closed terminal) unless it is ignored (nohup(1)).
    """
    found = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # Windows has no SIGHUP
        found.append(signal.SIGHUP)
    return found


def treat_terminations_as_interrupts() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, with the name of the signal."""
    for number in terminations():
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def reason_of(interrupt: KeyboardInterrupt) -> str:
    """Return what interrupted: `Ctrl-C`, `SIGTERM` or `SIGHUP`."""
    name = str(interrupt) or "SIGINT"
    return "Ctrl-C" if name == "SIGINT" else name


def run(main: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run a coroutine as `asyncio.run` does. Ctrl-C raises KeyboardInterrupt, however early it comes.

    `asyncio.Runner` sets its count of interrupts to 0 when it handles SIGINT already (CPython 3.11 to 3.13): one that
    comes in between cancels the coroutine, and is told as a CancelledError that nobody else would raise here.
    """
    import asyncio

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            return runner.run(main)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


@contextmanager
def delayed() -> Iterator[None]:
    """Delay interrupts until the end of the body, then raise KeyboardInterrupt for the first, if there was one."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > DELAYED_MAX:
            _interrupt(number, frame)

    numbers = (signal.SIGINT, *terminations())
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if noted:
        _interrupt(noted[0], None)
