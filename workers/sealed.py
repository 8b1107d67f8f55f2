"""An input that is too large for the orders socket: in sealed memory, which travels as a descriptor (memfd_create(2)).

Runs in: supervisor (makes it) | worker (maps it).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

INPUT_INLINE_BYTES_MAX = 1 << 20
"""Up to here an input is written into the socket, in pieces of what it takes: memory of its own costs more."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""A worker cannot change what the supervisor holds for another attempt; and to read a mapping of a file that someone
has cut short is SIGBUS.
"""


class SealedInput:
    """Bytes that nobody can change any more; owns its descriptor.

    It is closed by whoever knows the end of it; and with the last reference at the latest, for whoever asked for the
    copy may be gone before it is made.
    """

    __slots__ = ("_size", "descriptor")

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of such a file."""
        self.descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @classmethod
    def of(cls, content: bytes) -> SealedInput:
        """Copy bytes into sealed memory: 0.5 ms per MiB, in a thread therefore. Raise OSError."""
        descriptor = os.memfd_create("killable-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def __len__(self) -> int:
        return self._size

    @contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """Map it for reading, without a copy; what was made of it must not refer to it any more at the end."""
        with mmap.mmap(self.descriptor, self._size, prot=mmap.PROT_READ) as content:
            yield content

    def close(self) -> None:
        """May be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    __del__ = close

    def __repr__(self) -> str:
        return f"<SealedInput {self._size} bytes, descriptor {self.descriptor}>"
