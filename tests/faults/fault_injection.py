"""Counts the system calls of `supervisor/linux`, and makes one of them fail.

Runs in: the test process. The functions of `os`, `socket` and other modules are wrapped where they live. A call counts
if the first frame above the standard library's is in `supervisor/linux`, directly or through `fd_passing`, or in one of
the modules that take memory for large inputs and remove folders and memory (`inputs`, `shared_memory`, `tmp_removal`,
`leftover_memory`). So
`Path.mkdir` is a mkdir of the module that called it.

These calls are not failed, because they cannot fail, or because no handling is possible: close(2) (the descriptor is
gone whatever it returns), fcntl(2) and shutdown(2) of a descriptor just made, and poll(2).

A scan of all processes sees only a few that are not ours. On a machine with hundreds each would need a run of its own,
in which the same call fails in the next turn of the same loop.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
from support import processes

import killable.supervisor.linux
from killable.supervisor.jobs import inputs
from killable.supervisor.linux import pipe_io
from killable.workers.protocol import fd_passing, shared_memory
from killable.workers.runtime import leftover_memory, tmp_removal

ROOM = (
    f"{Path(killable.supervisor.linux.__file__).parent}{os.sep}",
    *(module.__file__ for module in (inputs, shared_memory, tmp_removal, leftover_memory)),
)
SHARED = fd_passing.__file__
LIBRARIES = (f"{Path(os.__file__).parent}{os.sep}", f"{Path(psutil.__file__).parent}{os.sep}", "<frozen")

NO_ROOM = "no room for a descriptor"
"""recvmsg(2) succeeds, and what was passed is lost (MSG_CTRUNC): as with EMFILE."""

STRANGERS = 3
"""How many processes that are not ours there are in a phase: the lowest pids, an init and a thread of the kernel."""

_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NAMES = (errno.ENOMEM, errno.ENOSPC, errno.EACCES)
_SENDS = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EPIPE)

Failure = int | str


@dataclass(frozen=True, slots=True)
class Operation:
    """A function to wrap, and how its man page lets it fail."""

    owner: Any
    name: str
    failures: tuple[Failure, ...]


OPERATIONS = (
    Operation(os, "open", _FILES),
    Operation(io, "open", _FILES),
    Operation(builtins, "open", _FILES),
    Operation(os, "pipe2", (errno.EMFILE, errno.ENFILE)),
    Operation(os, "dup", (errno.EMFILE,)),
    Operation(os, "memfd_create", _FILES),
    Operation(os, "read", (errno.EAGAIN,)),
    Operation(os, "pread", (errno.EIO,)),
    Operation(os, "write", (errno.ENOMEM, errno.ENODEV)),
    Operation(os, "mkdir", (*_NAMES, errno.EAGAIN)),
    Operation(os, "unlink", (errno.EBUSY, errno.ENOMEM)),
    Operation(os, "rmdir", (errno.EBUSY, errno.ENOMEM)),
    Operation(os, "listdir", _FILES),
    Operation(os, "scandir", _FILES),
    Operation(os, "stat", (errno.ENOMEM, errno.EACCES)),
    Operation(os, "pidfd_open", _FILES),
    Operation(signal, "pidfd_send_signal", (errno.EPERM,)),
    Operation(socket, "socketpair", (errno.EMFILE, errno.ENFILE)),
    Operation(socket, "send_fds", (*_SENDS, errno.ETOOMANYREFS)),
    Operation(socket, "recv_fds", (errno.EAGAIN, errno.ENOMEM, NO_ROOM)),
    Operation(socket.socket, "send", _SENDS),
    Operation(subprocess, "Popen", (errno.EAGAIN, errno.ENOMEM, errno.EMFILE)),
    Operation(selectors.EpollSelector, "register", (errno.ENOSPC, errno.ENOMEM)),
    Operation(threading.Thread, "start", (errno.EAGAIN,)),
)


WITHOUT_FAILURES = f"{Path(pipe_io.__file__).stem}.drain:"
"""Where EAGAIN is no failure but the pipe's word that it is empty; read(2) of a pipe has no other."""
EMPTY = f"{Path(pipe_io.__file__).stem}._read_some:"
"""Where it is that word, too, and other failures can be tried: what is in the ring of tokens then comes next."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, by where it was made from and how many of that place came before it in its phase."""

    phase: str
    site: str
    turn: int

    def __str__(self) -> str:
        return f"{self.phase}: {self.site} #{self.turn}"


@dataclass
class Injector:
    """Counts the calls of a phase, and fails the one that it is aimed at."""

    calls: list[Call] = field(default_factory=list)
    """Of the phase that is under way."""
    failed: Call | None = None
    _phase: str = ""
    _aim: Callable[[Call, int], bool] | None = None
    way: int = 0
    failure: Failure = 0
    ways: int = 0
    """In how many the one that has failed could."""
    _turns: Counter[str] = field(default_factory=Counter)
    """How many calls there were from each place."""
    _inside: bool = False

    def begin(self, phase: str) -> None:
        """Count from here on."""
        self._phase, self.calls, self.failed, self.ways, self._aim = phase, [], None, 0, None
        self._turns = Counter()

    def end(self) -> list[Call]:
        """Neither count nor fail anything any more; return the calls of the phase."""
        self._phase, self._aim = "", None
        return self.calls

    def aim_at(self, call: Call, way: int = 0, failure: Failure = 0) -> None:
        """Fail this call, in one of the ways of its operation in turn, or in one of one's own."""
        self._aim, self.way, self.failure = lambda made, _: made == call, way, failure

    def aim_behind(self, place: str, site: str, failure: Failure) -> None:
        """Fail the first call from `site` that comes after one from `place`."""
        self._aim = lambda made, _: site in made.site and any(place in call.site for call in self.calls)
        self.way, self.failure = 0, failure

    def aim_at_number(self, number: int, way: int = 0, turns: float = math.inf) -> None:
        """Fail the n-th call of the phase, from 1; of each place only so many count."""

        def is_meant(call: Call, _: int) -> bool:
            return call.turn < turns and sum(made.turn < turns for made in self.calls) == number

        self._aim, self.way, self.failure = is_meant, way, 0

    def note(self, operation: Operation, frame: FrameType | None) -> Failure:
        """Count a call if it is one of ours; return how it is to fail, or 0."""
        if not self._phase or self._inside:
            return 0
        caller = _caller(frame)
        if not caller or caller.startswith(WITHOUT_FAILURES):
            return 0
        site = f"{caller} {operation.name}"
        call = Call(self._phase, site, self._turns[site])
        self._turns[site] += 1
        self.calls.append(call)
        if self._aim is None or self.failed is not None or not self._aim(call, len(self.calls)):
            return 0
        self.failed, self.ways = call, len(operation.failures)
        self.failure = self.failure or operation.failures[self.way % len(operation.failures)]
        is_word = self.failure == errno.EAGAIN and caller.startswith(EMPTY)
        return 0 if is_word else self.failure

    def counts(self, frame: FrameType | None) -> bool:
        """Whether a call is one of ours in a phase."""
        return bool(self._phase and _caller(frame))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What is called in here belongs to the call that is being made."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


@functools.cache
def _stem(path: str) -> str:
    return Path(path).stem


def _caller(frame: FrameType | None) -> str:
    """Return file, function and line in the room from which a call was made; nothing if it is not one of ours."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOM):
            return f"{_stem(name)}.{frame.f_code.co_name}:{frame.f_lineno}"
        if name != SHARED and not name.startswith(LIBRARIES):
            return ""
        frame = frame.f_back
    return ""


def _without_most_strangers(names: list[str]) -> list[str]:
    """Return a listing of /proc that is as on a machine with little else on it."""
    ours = {str(os.getpid()), *(str(seen.pid) for seen in processes.started_by_tests())}
    strangers = sorted((name for name in names if name.isdigit() and name not in ours), key=int)
    return [name for name in names if name not in strangers[STRANGERS:]]


def install(monkeypatch: pytest.MonkeyPatch) -> Injector:
    """Wrap every operation; they do what they did until something is aimed at."""
    injector = Injector()
    for operation in OPERATIONS:
        monkeypatch.setattr(operation.owner, operation.name, _wrap(injector, operation))
    return injector


def _wrap(injector: Injector, operation: Operation) -> Callable[..., Any]:
    real = getattr(operation.owner, operation.name)

    def wrapped(*args: Any, **named: Any) -> Any:
        failure = injector.note(operation, sys._getframe(1))
        if failure:
            return _fail(operation, failure, real, args, named)
        if operation.name == "Popen":  # one act, though it opens and reads and writes
            with injector.whole():
                return real(*args, **named)
        result = real(*args, **named)
        if operation.name == "listdir" and args == ("/proc",) and injector.counts(sys._getframe(1)):
            return _without_most_strangers(result)
        return result

    return wrapped


def _fail(operation: Operation, failure: Failure, real: Callable[..., Any], args: Any, named: Any) -> Any:
    if operation.name == "start":
        raise RuntimeError("can't start new thread")  # what `threading` makes of EAGAIN
    if failure == NO_ROOM:
        message, descriptors, flags, address = real(*args, **named)
        for descriptor in descriptors:
            os.close(descriptor)
        return message, [], flags | socket.MSG_CTRUNC, address
    assert isinstance(failure, int)
    raise OSError(failure, os.strerror(failure))
