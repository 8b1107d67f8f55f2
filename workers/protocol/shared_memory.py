"""Values that are too large for a pipe: in a file in memory, which travels as a descriptor (memfd_create(2)).

Runs in: supervisor | worker. An input is sealed memory that the supervisor made and the worker maps; a result is laid
into an outlet that came with the order, and the supervisor's side has it mapped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import resource
import sys
from collections.abc import Callable, Iterator

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""A worker cannot change what the supervisor holds for another attempt; and to read a mapping of a file that someone
has cut short is SIGBUS.
"""


class OwnedDescriptor:
    """A descriptor, closed by whoever knows the end of it, and with the last reference at the latest: whoever asked
    for it may be gone before it is made.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """May be called again, also where none could be had."""
        descriptor = getattr(self, "descriptor", -1)
        self.descriptor = -1  # first: whatever interrupts this, nobody uses it again
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


class MemoryFile(OwnedDescriptor):
    """Bytes in memory."""

    __slots__ = ("_size",)

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of such a file, which has its size by now."""
        super().__init__(descriptor)
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    @contextlib.contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """Map it; what is written there stays private. What still refers to it at the end keeps it. Raise OSError."""
        content = self._map()
        try:
            yield content
        finally:
            try:
                content.close()
            except BufferError:
                pass  # an array lies in it

    def _map(self) -> mmap.mmap:
        """Before 3.13 a mapping has a descriptor of its own. Who keeps many large values would run out of them: then it
        is a copy. Raise OSError.
        """
        kind = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        if sys.version_info >= (3, 13):
            return mmap.mmap(self.descriptor, self._size, *kind, trackfd=False)
        if self.descriptor < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4:  # the lowest that was free
            with contextlib.suppress(OSError):  # none is left by now: a copy needs none
                return mmap.mmap(self.descriptor, self._size, *kind)
        content = mmap.mmap(-1, self._size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        read = 0
        with memoryview(content) as view:
            while read < self._size:
                count = os.preadv(self.descriptor, [view[read:]], read)
                if not count:
                    raise OSError(errno.EIO, "it has been cut short")
                read += count
        return content

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._size} bytes, descriptor {self.descriptor}>"


class SealedInput(MemoryFile):
    """Bytes that nobody can change any more."""

    __slots__ = ()

    @classmethod
    def of(cls, content: bytes) -> SealedInput:
        """Copy bytes into sealed memory: 0.5 ms per MiB, in a thread therefore. Raise OSError."""
        return cls.laid(lambda descriptor: _write_all(descriptor, content))

    @classmethod
    def laid(cls, lay: Callable[[int], None]) -> SealedInput:
        """Let something be written into memory, and seal it. Raise OSError."""
        descriptor = os.memfd_create("killable-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            lay(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)


class ResultBuffer(OwnedDescriptor):
    """An empty file in memory, for one large result; the worker has another descriptor of it."""

    __slots__ = ()

    def __init__(self) -> None:
        """Raise OSError."""
        super().__init__(os.memfd_create("killable-result", os.MFD_CLOEXEC))

    def take(self) -> MemoryFile:
        """Return what was laid there; this one is closed."""
        descriptor, self.descriptor = self.descriptor, -1
        return MemoryFile(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
