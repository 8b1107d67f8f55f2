"""Leaves signals to the program: the threads of an Executor block them.

Runs in: supervisor (an Executor's), in its threads. Behind `ports`.

The kernel gives a signal to any thread that does not block it (signal(7)). A program that blocks one in its own thread
would die of it in one of ours, or CPython would run its handler in the main thread all the same. billiard, Celery's
pool, does so around a lock that its processes share: with a handler in there it was never given back.
"""

from __future__ import annotations

# Not `signal`, which makes an enum of each number that it returns: 0.6 ms of the start.
import _signal  # type: ignore[import-not-found]
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_OF_A_THREAD = frozenset(
    int(each)
    for each in (
        signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
    )
)  # fmt: skip
"""What a thread does wrong is its own: blocked, it would end the program without its handler (faulthandler)."""


class _Masks(threading.local):
    of_program: set[int] | None = None
    """The mask that the calling thread began with; None: it is a thread of the program."""


_masks = _Masks()


def leave_to_program() -> None:
    """Block signals in the calling thread, which is one of an Executor. Processes that it starts inherit that: guards
    empty their mask.
    """
    _masks.of_program = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _OF_A_THREAD)


@contextmanager
def mask_of_program() -> Iterator[None]:
    """Have, in a thread of an Executor, the mask that it began with: what the program's own code starts inherits it."""
    mask = _masks.of_program
    if mask is None:
        yield
        return
    blocked = _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    try:
        yield
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
