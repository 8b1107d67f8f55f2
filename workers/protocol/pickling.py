"""Pickle values of any size; a large one is written into a memory file with one copy.

Runs in: any. Only for the Executor, where the caller is also the author: loading a pickle runs code.

    u32 number of buffers | u64 bytes of each … | u64 bytes of the pickle | the pickle | buffers, each at a 64th byte

Pickle protocol 5 keeps large buffers (numpy arrays, Arrow tables) out of the pickle (PEP 574): a process that maps the
file reads them without a copy. cloudpickle sends by value what plain pickle cannot send (lambdas, closures) or sends as
a name in `__main__`, which is another module in each process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from types import CodeType, FunctionType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from killable.workers.protocol import script_globals

PROTOCOL = 5
BUFFER_BYTES_MIN = 64 << 10
"""Smaller buffers stay in the pickle."""
_PAYLOAD_BYTES = 128 << 10
"""A larger part of a pickle is the bytes of a value: the pickler writes its own opcodes in frames of 64 KiB."""
_WRITEV_MAX = 512
"""Below IOV_MAX (writev(2))."""
_ALIGNMENT = 64
"""Alignment of a buffer in the file, as numpy uses it: compiled code may refuse an unaligned array."""
_NO_FILE = "<dynamic-code>"
"""The file name that cloudpickle writes into code objects from 3.1.2 on."""
_COUNT = struct.Struct("<I")
_SMALL = struct.Struct("<IQ")

Part = bytes | bytearray | memoryview


class Pickled:
    """A pickled value in pieces. Large pieces are the value's own memory, copied only by `to_bytes` and `lay`."""

    __slots__ = ("buffers", "parts", "size", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.buffers: list[memoryview] = []
        self.write = self.parts.append
        self.size = 0
        """The encoded size in bytes."""

    def dumped(self, pickler: type[pickle.Pickler], value: object, beside: bool) -> Pickled:
        pickler(self, PROTOCOL, buffer_callback=self._take if beside else None).dump(value)
        # The pickler writes a large in-band buffer as a PickleBuffer, which has no length.
        self.parts = [part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in self.parts]
        self.size = _SMALL.size + 8 * len(self.buffers) + sum(map(len, self.parts))
        for buffer in self.buffers:
            self.size += _padding(self.size) + buffer.nbytes
        return self

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a large buffer out of the pickle; return whether it stays in (the callback of protocol 5)."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous
        if raw.nbytes < BUFFER_BYTES_MIN:
            return True
        self.buffers.append(raw)
        return False

    @property
    def names_main(self) -> bool:
        """Whether the pickle may refer to an object by its name in `__main__`."""
        return any(b"__main__" in part for part in self.parts if len(part) < _PAYLOAD_BYTES)

    def to_bytes(self) -> bytes:
        """Return the encoded value in one piece."""
        return b"".join(self._pieces())

    def lay(self, descriptor: int) -> None:
        """Write the encoded value into a file. Raise OSError (no memory)."""
        pieces = [memoryview(piece).cast("B") for piece in self._pieces() if len(piece)]
        while pieces:
            count = os.writev(descriptor, pieces[:_WRITEV_MAX])
            while pieces and count >= len(pieces[0]):
                count -= len(pieces.pop(0))
            if count:
                pieces[0] = pieces[0][count:]

    def _pieces(self) -> list[Part]:
        pieces: list[Part] = [self._head(), *self.parts]
        end = sum(map(len, pieces)) if self.buffers else 0
        for buffer in self.buffers:
            padding = _padding(end)
            pieces += (b"\0" * padding, buffer)
            end += padding + buffer.nbytes
        return pieces

    def _head(self) -> bytes:
        if not self.buffers:
            return _SMALL.pack(0, self.size - _SMALL.size)
        sizes = [buffer.nbytes for buffer in self.buffers]
        return struct.pack(f"<I{len(sizes) + 1}Q", len(sizes), *sizes, sum(map(len, self.parts)))


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions by value. In the receiving process those of one module share their globals (`script_globals`),
    and their code keeps its file name, which tracebacks and stacks show.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            make, parts = self.dispatch_table[CodeType](value)
            return make, tuple(value.co_filename if _is_no_file(part) else part for part in parts)
        reduction = super().reducer_override(value)
        if isinstance(value, FunctionType) and isinstance(reduction, tuple):
            return script_globals.reduced(reduction)
        return reduction


def _is_no_file(part: object) -> bool:
    return isinstance(part, str) and part == _NO_FILE  # comparing bytes with str is a BytesWarning


def pickled(value: object, *, beside: bool = True) -> Pickled:
    """Pickle a value; `beside`: keep large buffers out of the pickle.

    Raise PicklingError or TypeError for a value that cannot be pickled, and any exception of its `__reduce__`.
    """
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            plain = Pickled().dumped(pickle.Pickler, value, beside)
        except Exception:
            pass  # cloudpickle may succeed, and has the better error message if it does not
        else:
            if not plain.names_main:
                return plain
    return Pickled().dumped(_ByValue, value, beside)


def loads(payload: bytes | mmap.mmap) -> Any:
    """Return the value. From a mapping, its buffers may refer to the mapping; from bytes they are copied.

    Unpickling may raise any exception.
    """
    view = memoryview(payload)
    (count,) = _COUNT.unpack_from(view)
    if not count:
        return pickle.loads(view[_SMALL.size :])
    *sizes, size = struct.unpack_from(f"<{count + 1}Q", view, _COUNT.size)
    start = _SMALL.size + 8 * count
    end = stop = start + size
    buffers: list[memoryview | bytearray] = []
    for length in sizes:
        begin = end + _padding(end)
        end = begin + length
        buffers.append(bytearray(view[begin:end]) if view.readonly else view[begin:end])
    return pickle.loads(view[start:stop], buffers=buffers)


def _padding(end: int) -> int:
    """Return the number of bytes from `end` to the next aligned position."""
    return -end % _ALIGNMENT
