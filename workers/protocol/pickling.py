"""Pickle values of any size; a large one is written into a memory file with one copy.

Runs in: any. Only for the Executor, where the caller is also the author: loading a pickle runs code.

    u32 number of buffers | u64 bytes of each … | u64 bytes of the pickle | the pickle | buffers, each at a 64th byte

Large pieces may be elsewhere, in memory files that other values refer to as well (`leave_out`). Then bit 30 of the
first number is set, the number of the pickle's pieces comes next, and the sizes of these stand before those of the
buffers; the size of a piece that is elsewhere has bit 63 set.

Pickle protocol 5 keeps large buffers (numpy arrays, Arrow tables) out of the pickle (PEP 574): a process that maps the
file reads them without a copy. What plain pickle cannot send goes by value (`by_value`): lambdas, closures, classes in
functions. Before a pickle for a worker that names something of the program's `__main__` are the definitions that it
needs (`definitions`); bit 31 of the number of buffers says so, and the pickle is then

    u32 bytes of the table | the table | definitions … | the pickle
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import struct
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from killable.workers.protocol import script_globals

# Not `by_value`: it imports cloudpickle, 8 ms, and most results, and tasks that name a function of a module, need none.
if TYPE_CHECKING:
    from killable.workers.protocol import by_value
    from killable.workers.protocol.definitions import DefinitionPieces, Identify, Needed, Needs
    from killable.workers.protocol.shared_memory import MemoryFile

    _Piece = memoryview | MemoryFile

PROTOCOL = 5
BUFFER_BYTES_MIN = 64 << 10
"""Smaller buffers stay in the pickle."""
_PAYLOAD_BYTES = 128 << 10
"""A larger part of a pickle is the bytes of a value: the pickler writes its own opcodes in frames of 64 KiB."""
_WRITEV_MAX = 512
"""Below IOV_MAX (writev(2))."""
_ALIGNMENT = 64
"""Alignment of a buffer in the file, as numpy uses it: compiled code may refuse an unaligned array."""
_HAS_DEFINITIONS, _IN_PIECES = 1 << 31, 1 << 30
_ELSEWHERE = 1 << 63
_LOADED_MAX = 100
"""The most tables of definitions that a worker remembers."""
_COUNT = struct.Struct("<I")
_COUNTS = struct.Struct("<II")
_SMALL = struct.Struct("<IQ")

_FUNCTIONS = frozenset({FunctionType, BuiltinFunctionType})
_ATOMS, _WORDS = frozenset({bool, int, float, type(None)}), frozenset({str, bytes})
_WORD_MAX = 4096
"""The longest of the texts and bytes of a small call."""

Part = bytes | bytearray | memoryview


class Pickled:
    """A pickled value in pieces. Large pieces are the value's own memory, copied only by `to_bytes` and `lay`."""

    __slots__ = ("_elsewhere", "_encoded", "_flags", "alone", "buffers", "definitions", "parts", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.buffers: list[memoryview] = []
        self.write = self.parts.append
        self.definitions: Needed | None = None
        """Stands for the definitions before the pickle; None: there are none."""
        self.alone = b""
        """The pickle without the definitions, of a small call of a function of `__main__`; empty: it is another one."""
        self._elsewhere: Collection[int] = ()
        self._flags = 0
        self._encoded: list[Part] = []
        """The encoded value in pieces; empty: it is not made yet."""

    def dumped(self, pickler: Callable[..., pickle.Pickler], value: object, beside: bool) -> Pickled:
        pickler(self, PROTOCOL, buffer_callback=self._take if beside else None).dump(value)
        if len(self.parts) > 1:
            # The pickler writes a large in-band buffer as a PickleBuffer, which has no length.
            self.parts = [part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in self.parts]
        return self

    def define(self, needed: DefinitionPieces) -> None:
        """Put definitions before the pickle."""
        parts, buffers, self.definitions = needed
        if parts:
            self._flags = _HAS_DEFINITIONS
            self.parts = [*parts, *self.parts]
            self.buffers = [*buffers, *self.buffers]
            self._encoded = []

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
        self._elsewhere = numbers
        self._encoded = []

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

    @property
    def content_bytes(self) -> int:
        """The size without head and padding: nothing is encoded for it, before pieces are left out perhaps."""
        return sum(map(len, self.parts)) + sum(map(len, self.buffers))

    @property
    def size(self) -> int:
        """The encoded size in bytes."""
        return sum(map(len, self._pieces()))

    def to_bytes(self) -> bytes:
        """Return the encoded value in one piece."""
        return b"".join(self._pieces())

    def pieces(self) -> list[bytes]:
        """Return the encoded value in pieces that nobody changes."""
        return [piece if type(piece) is bytes else bytes(piece) for piece in self._pieces()]

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
        """Return the encoded value in pieces."""
        if not self._encoded:
            self._encoded = self._encode()
        return self._encoded

    def _encode(self) -> list[Part]:
        parts, buffers = self.parts, self.buffers
        if self._elsewhere:
            pieces = list(enumerate((*parts, *buffers)))
            lengths = [len(piece) | _ELSEWHERE if number in self._elsewhere else len(piece) for number, piece in pieces]
            head = _COUNTS.pack(len(buffers) | self._flags | _IN_PIECES, len(parts))
            head += struct.pack(f"<{len(lengths)}Q", *lengths)
            here = [(number, piece) for number, piece in pieces if number not in self._elsewhere]
            parts = [piece for number, piece in here if number < len(self.parts)]
            buffers = [piece for number, piece in here if number >= len(self.parts)]
        elif buffers:
            sizes = [*map(len, buffers), sum(map(len, parts))]
            head = struct.pack(f"<I{len(sizes)}Q", len(buffers) | self._flags, *sizes)
        else:
            head = _SMALL.pack(self._flags, sum(map(len, parts)))
        encoded: list[Part] = [head, *parts]
        end = sum(map(len, encoded)) if buffers else 0
        for buffer in buffers:
            padding = _padding(end)
            encoded += (b"\0" * padding, buffer)
            end += padding + len(buffer)
        return encoded


def pickled(value: object, *, beside: bool = True, identify: Identify | None = None) -> Pickled:
    """Pickle a value for a worker, with what it needs of `__main__`; `beside`: keep large buffers out of the pickle.

    `identify` tells whether a large piece of a global has the content that it had in an earlier call.

    Raise PicklingError or TypeError for a value that cannot be pickled, and any exception of its `__reduce__`.
    """
    needs: Needs | None = None
    function = value.get("function") if type(value) is dict else None
    if getattr(function, "__module__", None) in script_globals.MAINS:
        found, needs = _call_of_main(value)
    else:
        found = _plain(value, beside)
    if found is None:
        from killable.workers.protocol import by_value

        found, needs = _by_value(by_value.Pickler, value, beside)
    if needs is not None:
        found.define(_definitions_for(needs, identify))
    return found


def in_band(value: object) -> bytes:
    """Pickle a value that plain pickle can send, without buffers beside it."""
    return without_definitions(pickle.dumps(value, PROTOCOL))


def without_definitions(alone: bytes) -> bytes:
    """Encode a pickle for a worker that has what it needs."""
    return _SMALL.pack(0, len(alone)) + alone


def with_definitions(definitions: bytes, alone: bytes, elsewhere: Sequence[MemoryFile]) -> bytes:
    """Encode a pickle with its definitions, all of whose buffers are elsewhere."""
    if not elsewhere:
        return b"".join((_SMALL.pack(_HAS_DEFINITIONS, len(definitions) + len(alone)), definitions, alone))
    lengths = len(definitions), len(alone), *(len(file) | _ELSEWHERE for file in elsewhere)
    head = _COUNTS.pack(len(elsewhere) | _HAS_DEFINITIONS | _IN_PIECES, 2)
    return b"".join((head, struct.pack(f"<{len(lengths)}Q", *lengths), definitions, alone))


def small_call(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes | None:
    """Return a call of a module's function with a few numbers and words, as `pickled` would encode it, in half the
    time. None: it is another call.
    """
    if getattr(function, "__module__", None) in script_globals.MAINS:
        return None
    encoded = _small_call(function, args, kwargs)
    return None if encoded is None else _SMALL.pack(0, len(encoded)) + encoded


def _small_call(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes | None:
    """Pickle a call of a function that has a name, with a few numbers and words. Return None for another call."""
    if type(function) not in _FUNCTIONS or _some_modules_go_by_value():
        return None
    for each in itertools.chain(args, kwargs.values()) if kwargs else args:
        kind = type(each)
        if not (kind in _ATOMS or (kind in _WORDS and len(each) <= _WORD_MAX)):
            return None
    try:
        return pickle.dumps({"function": function, "args": args, "kwargs": kwargs}, PROTOCOL)
    except Exception:
        return None  # a lambda, or a function in a function


def returned(value: object, *, beside: bool = True) -> Pickled:
    """Pickle a value for the program that this worker belongs to. Raise as `pickled`."""
    found = _plain(value, beside)
    if found is None:
        from killable.workers.protocol import by_value

        found, _ = _by_value(by_value.PicklerForProgram, value, beside)
    return found


def raised(error: BaseException) -> Pickled:
    """Pickle an exception for the program, as much of it as can be pickled. Raise as `pickled`."""
    from killable.workers.protocol import by_value

    try:
        return _by_value(by_value.PicklerOfRaised, error, True)[0]
    except Exception:
        pass  # what led to it, or one of its attributes, cannot be pickled
    return _by_value(by_value.PicklerOfRaisedParts, error, True)[0]


def defined(value: object) -> None:
    """Pickle a value as what a script has in a global. Raise as `pickled`."""
    from killable.workers.protocol import by_value

    _, pickler = _by_value(by_value.PicklerOfGlobals, value, True)
    _definitions_for(pickler)


def _definitions_for(needs: Needs, identify: Identify | None = None) -> DefinitionPieces:
    from killable.workers.protocol.definitions import hash_of, needed_by  # here: only programs need it

    return needed_by(needs, Pickled, identify or hash_of)


def _call_of_main(call: Any) -> tuple[Pickled, Needs] | tuple[None, None]:
    """Pickle a call of a function of `__main__`, if it is small: what it needs is the function's name."""
    from killable.workers.protocol.definitions import NeedsOfFunction  # here: only programs need it

    encoded = _small_call(**call) if call.keys() == {"function", "args", "kwargs"} else None
    if encoded is None:
        return None, None
    found = Pickled()
    found.write(encoded)
    found.alone = encoded
    return found, NeedsOfFunction(call["function"])


def _some_modules_go_by_value() -> bool:
    """Return whether the program has called `cloudpickle.register_pickle_by_value`."""
    cloudpickle = sys.modules.get("cloudpickle")  # not imported for this
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


def _plain(value: object, beside: bool) -> Pickled | None:
    """Pickle a value as pickle does. Return None if that fails, or names something of `__main__`."""
    if _some_modules_go_by_value():
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


def loads(payload: Part | mmap.mmap, elsewhere: Iterable[MemoryFile] = ()) -> Any:
    """Return the value. From a mapping, its buffers may refer to the mapping; from bytes they are copied.

    `elsewhere`: the pieces that were left out. Those that this process needs are mapped. Unpickling may raise any
    exception.
    """
    view = memoryview(payload)
    (head,) = _COUNT.unpack_from(view)
    if not head:
        return pickle.loads(view[_SMALL.size :])
    count = head & ~(_HAS_DEFINITIONS | _IN_PIECES)
    if head & _IN_PIECES:
        _, parts = _COUNTS.unpack_from(view)
        start = _COUNTS.size + 8 * (parts + count)
        lengths = struct.unpack_from(f"<{parts + count}Q", view, _COUNTS.size)
        part_lengths, buffer_lengths = list(lengths[:parts]), list(lengths[parts:])
    else:
        start = _SMALL.size + 8 * count
        *buffer_lengths, length = struct.unpack_from(f"<{count + 1}Q", view, _COUNT.size)
        part_lengths = [length]
    others = iter(elsewhere)
    left = _Pieces()
    for length in part_lengths:
        if length & _ELSEWHERE:
            left.add(next(others))
        else:
            left.add(view[start : start + length])
            start += length
    buffers: list[_Piece] = []
    for length in buffer_lengths:
        if length & _ELSEWHERE:
            buffers.append(next(others))
        else:
            begin = start + _padding(start)
            start = begin + length
            buffers.append(view[begin:start])
    if head & _HAS_DEFINITIONS:
        _load_definitions(left, buffers)
    return pickle.loads(left.take(), buffers=_writable(buffers))


def _content_of(piece: _Piece) -> memoryview:
    return piece if isinstance(piece, memoryview) else memoryview(piece.map())


class _Pieces:
    """What is left of a pickle in pieces."""

    def __init__(self) -> None:
        self._left: deque[_Piece] = deque()

    def add(self, piece: _Piece) -> None:
        self._left.append(piece)

    def skip(self, size: int) -> list[_Piece]:
        """Remove so many bytes, and return them in pieces."""
        found: list[_Piece] = []
        while size:
            piece = self._left.popleft()
            if len(piece) > size:
                piece = _content_of(piece)
                self._left.appendleft(piece[size:])
                piece = piece[:size]
            size -= len(piece)
            found.append(piece)
        return found

    def take(self, size: int | None = None) -> bytes | memoryview:
        """Remove so many bytes, or all, and return them in one piece."""
        found = self.skip(sum(map(len, self._left)) if size is None else size)
        return _content_of(found[0]) if len(found) == 1 else b"".join(map(_content_of, found))


def _writable(buffers: Iterable[_Piece]) -> Iterator[memoryview | bytearray]:
    for buffer in map(_content_of, buffers):
        yield bytearray(buffer) if buffer.readonly else buffer


_loaded: dict[bytes, tuple[int, int, int]] = {}
"""Tables whose definitions this process has: the version of its globals, the definitions' bytes and buffers."""


def _load_definitions(left: _Pieces, buffers: list[_Piece]) -> None:
    """Bind the definitions that this process does not have. Remove them from the pickle, and their buffers."""
    table = bytes(left.take(*_COUNT.unpack(left.take(_COUNT.size))))
    version, size, count = _loaded.get(table, (-1, 0, 0))
    if version == script_globals.version():
        left.skip(size)
        del buffers[:count]
        return
    rows = pickle.loads(table)
    for module, names, digest, size, count in rows:
        space = script_globals.namespace(module)
        if space is None or space.has(names, digest):
            left.skip(size)
        else:
            values = pickle.loads(left.take(size), buffers=_writable(buffers[:count]))
            for name, value in zip(names, values, strict=True):
                space.bind(name, value, digest)
        del buffers[:count]
    if len(_loaded) >= _LOADED_MAX:
        _loaded.clear()
    _loaded[table] = script_globals.version(), sum(row[3] for row in rows), sum(row[4] for row in rows)


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
