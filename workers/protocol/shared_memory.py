"""Memory files for values that are too large for a pipe; they are passed as descriptors (memfd_create(2)).

Runs in: supervisor | worker. The supervisor writes an input into sealed memory, and the worker maps it. The worker
writes a result into the result buffer that came with an order, and the supervisor's side maps it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Self

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""They keep a worker from changing the input of a later attempt, and from truncating the file: reading the mapping of
a truncated file is SIGBUS.
"""

HUGE_BYTES_MIN = 4 << 20
"""Smaller parts have too few huge pages to make a difference."""


class OwnedDescriptor:
    """A descriptor that is closed by `close`, or with the last reference: its user may be gone before it exists."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Close the descriptor. May be called again, and after a failed `__init__`."""
        descriptor = getattr(self, "descriptor", -1)
        self.descriptor = -1  # first: if this is interrupted, the number is not used again
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


COPIED_BYTES_MAX = 8 << 20
"""Bytes of a result that are copied so that its descriptor can be closed: some 6 ms."""


class MemoryFile(OwnedDescriptor):
    """A file in memory with a fixed size."""

    __slots__ = ("_size",)

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of a memory file that has its final size."""
        super().__init__(descriptor)
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    @contextlib.contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """Map the file privately. The mapping outlives the `with` while something refers to it. Raise OSError."""
        content = self._map()
        try:
            yield content
        finally:
            try:
                content.close()
            except BufferError:
                pass  # an array refers to it

    def map(self) -> mmap.mmap | memoryview:
        """Map the file privately; the mapping goes with the last reference to it. Raise OSError."""
        return self._map()

    def _map(self) -> mmap.mmap:
        """Map the file. Raise OSError.

        Before Python 3.13 each mapping holds a descriptor; a program with many large values would run out of them. It
        gets a copy instead once the descriptor numbers are high.
        """
        kind = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        if sys.version_info >= (3, 13):
            return mmap.mmap(self.descriptor, self._size, *kind, trackfd=False)
        if not _are_many_up_to(self.descriptor):
            with contextlib.suppress(OSError):  # no descriptor is left: a copy needs none
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

    def without_descriptor(self) -> Self | mmap.mmap:
        """Return what is to be kept for long: the content alone, when many descriptors of this process are open, and
        the file is closed then; else the file. More than COPIED_BYTES_MAX is copied only when half of the descriptors
        are open: the supervisor's thread has other things to do.
        """
        is_long = sys.version_info < (3, 13) and self._size > COPIED_BYTES_MAX
        if not _are_many_up_to(self.descriptor // 2 if is_long else self.descriptor):
            return self
        try:
            content = self._map()
        except OSError:  # no memory for a copy
            return self
        self.close()
        return content

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._size} bytes, descriptor {self.descriptor}>"


class SealedInput(MemoryFile):
    """Bytes in sealed memory, which no process can change."""

    __slots__ = ()

    @classmethod
    def of(cls, content: bytes | memoryview) -> Self:
        """Copy bytes into sealed memory. Call it in a thread: it takes 0.5 ms per MiB. Raise OSError."""
        return cls.laid(lambda descriptor: _write_all(descriptor, content))

    @classmethod
    def laid(cls, lay: Callable[[int], None], *, may_wait: bool = False) -> Self:
        """Make a memory file, have `lay` write to its descriptor, and seal it. Raise OSError.

        `may_wait`: there may be any number of such files. Raise OSError then also when many descriptors are open.
        """
        descriptor = os.memfd_create("killable-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            if may_wait and _are_many_up_to(descriptor):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            lay(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)


class SharedPart(SealedInput):
    """A part of inputs, in sealed memory of its own: any number of inputs refer to it."""

    __slots__ = ("__weakref__", "_is_gathered", "digest")

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.digest = b""
        """A hash of the content; empty: nobody has asked for it yet."""
        self._is_gathered = False

    @classmethod
    def of(cls, content: bytes | memoryview) -> Self:
        """Copy bytes into sealed memory. Raise OSError, also when many descriptors of this process are open."""
        return cls.laid(lambda descriptor: _write_all(descriptor, content), may_wait=True)

    def gather(self) -> None:
        """Move a large content to huge pages: it will be used more than once. May be called again."""
        if not self._is_gathered and len(self) >= HUGE_BYTES_MIN:
            from killable.workers.protocol import huge_pages  # here: it needs ctypes

            self._is_gathered = True
            huge_pages.gather(self.descriptor, len(self))

    def map(self) -> mmap.mmap | memoryview:
        """Map it as other files, but a large one where it may have huge pages."""
        if len(self) < HUGE_BYTES_MIN:
            return super().map()
        from killable.workers.protocol import huge_pages

        return huge_pages.mapped(self.descriptor, len(self))


class SharedParts:
    """The shared parts of one input, in the order in which it refers to them."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Iterable[SharedPart]) -> None:
        self._parts: tuple[SharedPart, ...] = tuple(parts)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(part.descriptor for part in self._parts)

    def close(self) -> None:
        """Let go of the parts. Each is closed with the last reference to it. May be called again."""
        self._parts = ()


class ResultBuffer(OwnedDescriptor):
    """An empty memory file for one large result; the worker has another descriptor of it."""

    __slots__ = ()

    def __init__(self) -> None:
        """Make the file. Raise OSError."""
        super().__init__(os.memfd_create("killable-result", os.MFD_CLOEXEC))

    def take(self) -> MemoryFile:
        """Return the file with the result, which takes over the descriptor."""
        descriptor, self.descriptor = self.descriptor, -1
        return MemoryFile(descriptor)


def _are_many_up_to(descriptor: int) -> bool:
    """Return whether a quarter of the descriptors that this process may have is open: the kernel gives the lowest free
    one. The rest is the program's own.
    """
    return descriptor >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
