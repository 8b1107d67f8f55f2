"""Check whether a worker can take another job: a job must leave parts of the process unchanged (some 5 µs to check).

Runs in: worker. Threads, children, signal dispositions, wakeup descriptor, mask, timers, working directory, umask.
Everything else (environment, rlimits, affinity, locale, sys.path, random state, descriptors) may change between jobs;
stdout and stderr are restored.
"""

from __future__ import annotations

# `signal` makes an enum of each number that it returns: a third of the check's time, after every job.
import _signal  # type: ignore[import-not-found]
import ctypes
import errno
import os
import signal
import time
from signal import ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, getitimer
from typing import Any, Protocol, Self

from killable.workers.named_tuples import NamedTuple

_WATCHED = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
THREAD_LEAVE_S = 0.005
"""The kernel counts a joined thread for some 0.5 ms more, until it is really gone."""
_WALL = 0x40000000
"""Includes children of clone(2) that send no SIGCHLD when they end (waitid(2))."""
_ANY_CHILD = os.WEXITED | os.WNOWAIT | os.WNOHANG | _WALL
_waitid = ctypes.CDLL(None).waitid
"""waitid(2), which fails if there is no child. `os.waitid` makes an exception of that: four times as long."""
_waitid.argtypes = ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int


class TaskFolder:
    """/proc/self/task, kept open: to count the threads then takes a quarter of the time."""

    def __init__(self) -> None:
        """Raise OSError."""
        self.descriptor = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._identity = os.fstat(self.descriptor)[1:3]

    def threads(self) -> int:
        """Return a number that grows with each thread. Raise OSError if a job has closed the descriptor."""
        found = os.fstat(self.descriptor)
        if found[1:3] != self._identity:
            raise OSError(errno.EBADF, "it is another file's descriptor by now")
        return found.st_nlink


class Handlers(Protocol):
    """Knows whether a signal handler was set since all were found as they were: to compare them takes 4 µs."""

    are_handlers_set: bool


class Baseline(NamedTuple):
    """The state of a worker between two jobs."""

    threads: int
    dispositions: tuple[Any, ...]
    wakeup: int | None
    mask: frozenset[int]
    cwd: tuple[int, int]
    umask: int

    path: str
    """Of the working directory; empty if it was removed."""

    @classmethod
    def take(cls) -> Self:
        here = os.stat(".")
        umask = os.umask(0o022)
        os.umask(umask)
        return cls(
            threads=os.stat("/proc/self/task").st_nlink,
            dispositions=tuple(map(_signal.getsignal, _WATCHED)),
            wakeup=_wakeup_descriptor(),
            mask=frozenset(_signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            cwd=(here.st_dev, here.st_ino),
            umask=umask,
            path=_working_directory(),
        )

    def changed(self, tasks: TaskFolder, handlers: Handlers) -> str:
        """Return a description of the first change that a job made, or an empty string. `tasks` counts the threads."""
        change = "" if self._is_unchanged(tasks, handlers) else self._described_change()
        if not change:
            handlers.are_handlers_set = False
        return change

    def _is_unchanged(self, tasks: TaskFolder, handlers: Handlers) -> bool:
        """Return whether nothing has changed, at a third of the cost of a description. False may be wrong."""
        umask = os.umask(self.umask)
        try:
            return (
                tasks.threads() <= self.threads
                and not _has_children()
                and (not handlers.are_handlers_set or tuple(map(_signal.getsignal, _WATCHED)) == self.dispositions)
                and self._keeps_wakeup()
                and _signal.pthread_sigmask(signal.SIG_BLOCK, ()) == self.mask
                and not (getitimer(ITIMER_REAL)[0] or getitimer(ITIMER_VIRTUAL)[0] or getitimer(ITIMER_PROF)[0])
                and os.getcwd() == self.path
                and umask == self.umask
            )
        except (OSError, ValueError):  # ValueError: the wakeup descriptor blocks
            return False
        finally:
            if umask != self.umask:
                os.umask(umask)

    def _keeps_wakeup(self) -> bool:
        """Return whether the wakeup descriptor is the same, in one call if it is. Otherwise there is none from here on:
        the description finds that. Raise OSError or ValueError.
        """
        assert self.wakeup is not None
        found: int = _signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        if found != self.wakeup:
            _signal.set_wakeup_fd(-1)
        return found == self.wakeup

    def _described_change(self) -> str:
        try:
            now = Baseline.take()
        except OSError as error:
            return f"the working directory is gone ({error.strerror})"
        if self.path and not now.path:
            return "the working directory is gone"
        if now.threads > self.threads and not self._threads_leave():
            return f"{now.threads - self.threads} thread(s) more than before"
        if _has_children():
            return "child processes are left"
        if now.dispositions != self.dispositions:
            return "a signal disposition was changed"
        if now.wakeup != self.wakeup:
            return "the wakeup descriptor was taken"
        if now.mask != self.mask:
            return "the signal mask was changed"
        if getitimer(ITIMER_REAL)[0] or getitimer(ITIMER_VIRTUAL)[0] or getitimer(ITIMER_PROF)[0]:
            return "a timer is running"
        if now.cwd != self.cwd:
            return "the working directory was changed"
        if now.umask != self.umask:
            return "the umask was changed"
        return ""

    def _threads_leave(self) -> bool:
        """Wait up to THREAD_LEAVE_S for joined threads to go; return whether they went."""
        deadline = time.monotonic() + THREAD_LEAVE_S
        while time.monotonic() < deadline:
            time.sleep(0.0005)
            if os.stat("/proc/self/task").st_nlink <= self.threads:
                return True
        return False


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the program's own was removed, perhaps
        return ""


def _wakeup_descriptor() -> int | None:
    """Return the wakeup descriptor; None if a job has closed it or made it blocking, so that it cannot be set again."""
    descriptor: int = _signal.set_wakeup_fd(-1)
    try:
        _signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    except (OSError, ValueError):
        return None
    return descriptor


def _has_children() -> bool:
    return not _waitid(os.P_ALL, 0, None, _ANY_CHILD)
