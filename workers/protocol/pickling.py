"""Pickle values of any size; a large one is written into a memory file with one copy.

Runs in: any. Only for the Executor, where the caller is also the author: loading a pickle runs code.

    u32 number of buffers | u64 bytes of each … | u64 bytes of the pickle | the pickle | buffers, each at a 64th byte

Pickle protocol 5 keeps large buffers (numpy arrays, Arrow tables) out of the pickle (PEP 574): a process that maps the
file reads them without a copy. What plain pickle cannot send goes by value (`by_value`): lambdas, closures, classes in
functions. Before a pickle for a worker that names something of the program's `__main__` are the definitions that it
needs (`definitions`); bit 31 of the number of buffers says so, and the pickle is then

    u32 bytes of the table | the table | definitions … | the pickle
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from killable.workers.protocol import by_value, script_globals

if TYPE_CHECKING:
    from killable.workers.protocol.definitions import Identify, Needed

PROTOCOL = 5
BUFFER_BYTES_MIN = 64 << 10
"""Smaller buffers stay in the pickle."""
_PAYLOAD_BYTES = 128 << 10
"""A larger part of a pickle is the bytes of a value: the pickler writes its own opcodes in frames of 64 KiB."""
_WRITEV_MAX = 512
"""Below IOV_MAX (writev(2))."""
_ALIGNMENT = 64
"""Alignment of a buffer in the file, as numpy uses it: compiled code may refuse an unaligned array."""
_HAS_DEFINITIONS = 1 << 31
_LOADED_MAX = 100
"""The most tables of definitions that a worker remembers."""
_COUNT = struct.Struct("<I")
_SMALL = struct.Struct("<IQ")

Part = bytes | bytearray | memoryview


class Pickled:
    """A pickled value in pieces. Large pieces are the value's own memory, copied only by `to_bytes` and `lay`."""

    __slots__ = ("_flags", "buffers", "parts", "size", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.buffers: list[memoryview] = []
        self.write = self.parts.append
        self.size = 0
        """The encoded size in bytes."""
        self._flags = 0

    def dumped(self, pickler: Callable[..., pickle.Pickler], value: object, beside: bool) -> Pickled:
        pickler(self, PROTOCOL, buffer_callback=self._take if beside else None).dump(value)
        # The pickler writes a large in-band buffer as a PickleBuffer, which has no length.
        self.parts = [part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in self.parts]
        self._measure()
        return self

    def define(self, needed: Needed) -> None:
        """Put definitions before the pickle."""
        if needed:
            self._flags = _HAS_DEFINITIONS
            self.parts = [*needed.parts, *self.parts]
            self.buffers = [*needed.buffers, *self.buffers]
            self._measure()

    def _measure(self) -> None:
        self.size = _SMALL.size + 8 * len(self.buffers) + sum(map(len, self.parts))
        for buffer in self.buffers:
            self.size += _padding(self.size) + buffer.nbytes

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
        return any(b"_main__" in part for part in self.parts if len(part) < _PAYLOAD_BYTES)

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
            return _SMALL.pack(self._flags, self.size - _SMALL.size)
        sizes = [buffer.nbytes for buffer in self.buffers]
        return struct.pack(f"<I{len(sizes) + 1}Q", len(sizes) | self._flags, *sizes, sum(map(len, self.parts)))


def pickled(value: object, *, beside: bool = True, identify: Identify | None = None) -> Pickled:
    """Pickle a value for a worker, with what it needs of `__main__`; `beside`: keep large buffers out of the pickle.

    `identify` tells whether a large piece of a global has the content that it had in an earlier call.

    Raise PicklingError or TypeError for a value that cannot be pickled, and any exception of its `__reduce__`.
    """
    found = None if _calls_main(value) else _plain(value, beside)
    if found is None:
        found, pickler = _by_value(by_value.Pickler, value, beside)
        found.define(_definitions_for(pickler, identify))
    return found


def returned(value: object, *, beside: bool = True) -> Pickled:
    """Pickle a value for the program that this worker belongs to. Raise as `pickled`."""
    return _plain(value, beside) or _by_value(by_value.PicklerForProgram, value, beside)[0]


def raised(error: BaseException) -> Pickled:
    """Pickle an exception for the program, as much of it as can be pickled. Raise as `pickled`."""
    try:
        return _by_value(by_value.PicklerOfRaised, error, True)[0]
    except Exception:
        pass  # what led to it, or one of its attributes, cannot be pickled
    return _by_value(by_value.PicklerOfRaisedParts, error, True)[0]


def defined(value: object) -> None:
    """Pickle a value as what a script has in a global. Raise as `pickled`."""
    _, pickler = _by_value(by_value.PicklerOfGlobals, value, True)
    _definitions_for(pickler)


def _definitions_for(pickler: by_value.Pickler, identify: Identify | None = None) -> Needed:
    from killable.workers.protocol import definitions  # here: only programs need it

    return definitions.needed_by(pickler, Pickled, identify or definitions.hash_of)


def _calls_main(value: object) -> bool:
    """Return whether a value is a call of a function of `__main__`."""
    function = value.get("function") if type(value) is dict else None
    return getattr(function, "__module__", None) in script_globals.MAINS


def _plain(value: object, beside: bool) -> Pickled | None:
    """Pickle a value as pickle does. Return None if that fails, or names something of `__main__`."""
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        plain = Pickled().dumped(pickle.Pickler, value, beside)
    except Exception:
        return None  # it may go by value, and has the better error message if it does not
    return None if plain.names_main else plain


def _by_value(kind: type[by_value.Pickler], value: object, beside: bool) -> tuple[Pickled, by_value.Pickler]:
    made: list[by_value.Pickler] = []

    def pickler(*arguments: Any, **options: Any) -> by_value.Pickler:
        made.append(kind(*arguments, **options))
        return made[0]

    return Pickled().dumped(pickler, value, beside), made[0]


def loads(payload: bytes | mmap.mmap) -> Any:
    """Return the value. From a mapping, its buffers may refer to the mapping; from bytes they are copied.

    Unpickling may raise any exception.
    """
    view = memoryview(payload)
    (count,) = _COUNT.unpack_from(view)
    if not count:
        return pickle.loads(view[_SMALL.size :])
    has_definitions = bool(count & _HAS_DEFINITIONS)
    count &= ~_HAS_DEFINITIONS
    *sizes, size = struct.unpack_from(f"<{count + 1}Q", view, _COUNT.size)
    start = _SMALL.size + 8 * count
    end = stop = start + size
    places: list[tuple[int, int]] = []
    for length in sizes:
        begin = end + _padding(end)
        end = begin + length
        places.append((begin, end))
    if has_definitions:
        start = _load_definitions(view, start, places)
    return pickle.loads(view[start:stop], buffers=_buffers(view, places))


def _buffers(view: memoryview, places: list[tuple[int, int]]) -> Iterator[memoryview | bytearray]:
    for begin, end in places:
        yield bytearray(view[begin:end]) if view.readonly else view[begin:end]


_loaded: dict[bytes, tuple[int, int, int]] = {}
"""Tables whose definitions this process has: the version of its globals, the definitions' bytes and buffers."""


def _load_definitions(view: memoryview, start: int, places: list[tuple[int, int]]) -> int:
    """Bind the definitions that this process does not have. Return where the pickle behind them starts, and remove
    their buffers from `places`.
    """
    (length,) = _COUNT.unpack_from(view, start)
    start += _COUNT.size
    table = bytes(view[start : start + length])
    start += length
    version, size, count = _loaded.get(table, (-1, 0, 0))
    if version != script_globals.version():
        before = start, len(places)
        for module, names, digest, its_size, its_count in pickle.loads(table):
            space = script_globals.namespace(module)
            if space is not None and not space.has(names, digest):
                values = pickle.loads(view[start : start + its_size], buffers=_buffers(view, places[:its_count]))
                for name, value in zip(names, values, strict=True):
                    space.bind(name, value, digest)
            start += its_size
            del places[:its_count]
        if len(_loaded) >= _LOADED_MAX:
            _loaded.clear()
        _loaded[table] = script_globals.version(), start - before[0], before[1] - len(places)
        return start
    del places[:count]
    return start + size


def _padding(end: int) -> int:
    """Return the number of bytes from `end` to the next aligned position."""
    return -end % _ALIGNMENT
