"""Log the names of the shared memory and semaphores that a worker's processes make, so that they can be removed.

Runs in: zygote | worker, and the processes that a job starts with `multiprocessing`.

`multiprocessing` has a resource tracker for this, a process below the worker: whatever kills the worker's tree kills it
as well, with all that it knows. Here a file takes its place: `multiprocessing` appends its lines to it, and the process
of the tracker is never started. What a process makes is told by shm_open(3) itself: up to Python 3.12 the tracker also
hears of segments that were only attached (bpo-38119), and these belong to someone else.

Nothing is imported or opened until a program imports one of the two modules.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from types import ModuleType
from typing import Any

from killable.workers.protocol import named_memory_log
from killable.workers.protocol.named_memory_log import SHARED_MEMORY, NamedMemory, NamedObject, line_of
from killable.workers.runtime.import_hooks import when_imported

_SHM_MODULE = "_posixshmem"
_TRACKER_MODULE = "multiprocessing.resource_tracker"


class NamedMemoryHooks:
    """The log of this process; a forked worker has one of its own."""

    def __init__(self) -> None:
        self._path = ""
        self._descriptor = -1

    def install(self, path: str) -> None:
        """Write names to the file at `path` from now on; it is made when it is needed."""
        self._path = path
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        for name in (_SHM_MODULE, _TRACKER_MODULE):
            when_imported(name, self.take_over)

    def take_over(self, module: ModuleType) -> None:
        """Have a module that has just been imported write to the log."""
        if module.__name__ == _SHM_MODULE:
            if not isinstance(module.shm_open, _Making):
                module.shm_open = _Making(self, module.shm_open)  # type: ignore[attr-defined]
                module.shm_unlink = _Unlinking(self, module.shm_unlink)  # type: ignore[attr-defined]
            return
        try:
            tracker = module._resource_tracker
            tracker._fd, tracker._pid = self._open(), None  # as in a child to which `multiprocessing` gave its own
        except (AttributeError, OSError):
            pass  # another implementation, or a full disk: then it starts its process, as anywhere

    def _open(self) -> int:
        if self._descriptor < 0:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
            os.write(self._descriptor, line_of("SINCE", int(time.time())))
        return self._descriptor

    def note(self, line: bytes) -> None:
        """Append a line. Does nothing when the file cannot be written: the job must not fail for it."""
        with suppress(OSError):
            os.write(self._open(), line)

    def left(self) -> list[NamedObject]:
        """Return what was made and not unlinked."""
        if not os.path.exists(self._path):  # as mostly
            return []
        try:
            with open(self._path, "rb") as file:
                return NamedMemory(file).objects
        except OSError:
            return []

    def hand_over(self) -> None:
        """Leave what a call has made, and keeps, to its program: it is removed when the pool ends. No process of the
        call exists any more.
        """
        if not os.access(self._path, os.F_OK):  # as mostly; `exists` would make an exception of it
            return
        # What is not tracked was made to outlive its process (SharedMemory(track=False), Python 3.13).
        objects = [each for each in self.left() if each.is_held or each.is_tracked or each.kind != SHARED_MEMORY]
        with suppress(OSError):
            os.ftruncate(self._open(), 0)
            self.note(line_of("SINCE", int(time.time())) + b"".join(map(named_memory_log.held, objects)))


names = NamedMemoryHooks()


class _Making:
    """`_posixshmem.shm_open`, which logs what it has made."""

    def __init__(self, log: NamedMemoryHooks, real: Any) -> None:
        self._log = log
        self._real = real

    def __call__(self, path: str, flags: int, mode: int = 0o777) -> int:
        makes = flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL
        if makes:  # before: this process may be killed at any moment
            self._log.note(line_of("OPEN", path))
        try:
            descriptor: int = self._real(path, flags, mode)
        except BaseException:
            if makes:
                self._log.note(line_of("GONE", path))
            raise
        self._log.note(line_of("MADE", os.fstat(descriptor).st_ino, path) if makes else line_of("SEEN", path))
        return descriptor


class _Unlinking:
    """`_posixshmem.shm_unlink`, which logs that the name is gone."""

    def __init__(self, log: NamedMemoryHooks, real: Any) -> None:
        self._log = log
        self._real = real

    def __call__(self, path: str) -> None:
        self._real(path)
        self._log.note(line_of("GONE", path))
