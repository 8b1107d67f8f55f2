"""Pickle values of any size; a large one is written into a memory file with one copy.

Runs in: any. Only for the Executor, where the caller is also the author: loading a pickle runs code.

    u32 number of buffers | u64 bytes of each … | u64 bytes of the pickle | the pickle | buffers, each at a 64th byte

Large pieces may be elsewhere, in memory files that other values refer to as well (`leave_out`). Then bit 30 of the
first number is set, the number of the pickle's pieces comes next, and the sizes of these stand before those of the
buffers; the size of a piece that is elsewhere has bit 63 set.
Pickle protocol 5 keeps large buffers (numpy arrays, Arrow tables) out of the pickle (PEP 574): a process that maps the
file reads them without a copy. Objects that plain pickle cannot send, or only by a name in `__main__`, which is another
module in each process, go by value (cloudpickle): lambdas, closures, everything of a script or a notebook.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import struct
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
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
_IN_PIECES = 1 << 30
_ELSEWHERE = 1 << 63
_COUNT = struct.Struct("<I")
_COUNTS = struct.Struct("<II")
_SMALL = struct.Struct("<IQ")

Part = bytes | bytearray | memoryview


class Pickled:
    """A pickled value in pieces. Large pieces are the value's own memory, copied only by `to_bytes` and `lay`."""

    __slots__ = ("_elsewhere", "buffers", "parts", "size", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.buffers: list[memoryview] = []
        self._elsewhere: Collection[int] = ()
        self.write = self.parts.append
        self.size = 0
        """The encoded size in bytes."""

    def dumped(self, pickler: type[pickle.Pickler], value: object, beside: bool) -> Pickled:
        pickler(self, PROTOCOL, buffer_callback=self._take if beside else None).dump(value)
        # The pickler writes a large in-band buffer as a PickleBuffer, which has no length.
        self.parts = [part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in self.parts]
        self._measure()
        return self

    def pieces_over(self, bytes_min: int) -> dict[int, bytes | memoryview]:
        """Return the large pieces by number, to be left out perhaps.

        The pickle itself is written in frames of 64 KiB. Most of them become one piece; the first and the last frame
        stay alone, for that is where the pickles of two calls of one function differ.
        """
        if sum(map(len, self.parts)) >= bytes_min:
            self.parts = list(_merged(self.parts, bytes_min))
        pieces = enumerate((*self.parts, *self.buffers))
        return {number: piece for number, piece in pieces if len(piece) >= bytes_min}

    def leave_out(self, numbers: Collection[int]) -> None:
        """Leave out the pieces of these numbers: `loads` is given them in the same order."""
        self._elsewhere = frozenset(numbers)
        self._measure()

    def _measure(self) -> None:
        self.size = self._head_size() + sum(map(len, self._here(0, self.parts)))
        for buffer in self._here(len(self.parts), self.buffers):
            self.size += _padding(self.size) + buffer.nbytes

    def _head_size(self) -> int:
        if self._elsewhere:
            return _COUNTS.size + 8 * (len(self.parts) + len(self.buffers))
        return _SMALL.size + 8 * len(self.buffers)

    def _here(self, first: int, pieces: Sequence[Any]) -> Sequence[Any]:
        """Return those pieces that are not elsewhere; `first` is the number of the first one."""
        if not self._elsewhere:
            return pieces
        return [piece for number, piece in enumerate(pieces, first) if number not in self._elsewhere]

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
        pieces: list[Part] = [self._head(), *self._here(0, self.parts)]
        end = sum(map(len, pieces)) if self.buffers else 0
        for buffer in self._here(len(self.parts), self.buffers):
            padding = _padding(end)
            pieces += (b"\0" * padding, buffer)
            end += padding + buffer.nbytes
        return pieces

    def _head(self) -> bytes:
        if self._elsewhere:
            pieces = enumerate((*self.parts, *self.buffers))
            lengths = [len(piece) | (_ELSEWHERE if number in self._elsewhere else 0) for number, piece in pieces]
            counts = len(self.buffers) | _IN_PIECES, len(self.parts)
            return _COUNTS.pack(*counts) + struct.pack(f"<{len(lengths)}Q", *lengths)
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


def loads(payload: bytes | mmap.mmap, elsewhere: Iterable[mmap.mmap] = ()) -> Any:
    """Return the value. From a mapping, its buffers may refer to the mapping; from bytes they are copied.

    `elsewhere`: mappings of the pieces that were left out. Unpickling may raise any exception.
    """
    view = memoryview(payload)
    (count,) = _COUNT.unpack_from(view)
    if not count:
        return pickle.loads(view[_SMALL.size :])
    if count & _IN_PIECES:
        return _load_pieces(view, iter(elsewhere))
    *sizes, size = struct.unpack_from(f"<{count + 1}Q", view, _COUNT.size)
    start = _SMALL.size + 8 * count
    stop = start + size
    return pickle.loads(view[start:stop], buffers=_buffers(view, stop, sizes, iter(())))


def _load_pieces(view: memoryview, elsewhere: Iterator[mmap.mmap]) -> Any:
    counts, parts = _COUNTS.unpack_from(view)
    buffers = counts & ~_IN_PIECES
    sizes = struct.unpack_from(f"<{parts + buffers}Q", view, _COUNTS.size)
    end = _COUNTS.size + 8 * (parts + buffers)
    pieces = []
    for size in sizes[:parts]:
        if size & _ELSEWHERE:
            pieces.append(memoryview(next(elsewhere)))
        else:
            pieces.append(view[end : end + size])
            end += size
    return pickle.Unpickler(_Pieces(pieces), buffers=_buffers(view, end, sizes[parts:], elsewhere)).load()


def _buffers(
    view: memoryview, end: int, sizes: Iterable[int], elsewhere: Iterator[mmap.mmap]
) -> Iterator[memoryview | bytearray]:
    """Yield the buffers of a value, which stand behind `end`."""
    for size in sizes:
        if size & _ELSEWHERE:
            yield memoryview(next(elsewhere))
        else:
            begin = end + _padding(end)
            end = begin + size
            yield bytearray(view[begin:end]) if view.readonly else view[begin:end]


class _Pieces:
    """A pickle in pieces, as a file: a large value in it is copied once, from its piece."""

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._left = deque(piece for piece in pieces if len(piece))

    def readinto(self, room: memoryview) -> int:
        done = 0
        while done < len(room) and self._left:
            piece = self._left.popleft()
            taken = min(len(piece), len(room) - done)
            room[done : done + taken] = piece[:taken]
            done += taken
            if taken < len(piece):
                self._left.appendleft(piece[taken:])
        return done

    def read(self, size: int) -> bytes:
        found = bytearray(min(size, sum(map(len, self._left))))
        self.readinto(memoryview(found))
        return bytes(found)

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):  # no opcode of protocol 5 comes as a line
            line += byte
        return bytes(line)


def _merged(parts: Iterable[Part], bytes_min: int) -> Iterator[Part]:
    """Merge what is between the first and the last part of each run of small ones."""
    for is_small, run in itertools.groupby(parts, key=lambda part: len(part) < bytes_min):
        first, *middle = run
        yield first
        if is_small and len(middle) > 1:
            yield b"".join(middle[:-1])
            yield middle[-1]
        else:
            yield from middle


def _padding(end: int) -> int:
    """Return the number of bytes from `end` to the next aligned position."""
    return -end % _ALIGNMENT
