"""The codecs of values between processes: `json` for the service, `pickle` where caller and author are one person.

Runs in: worker (both directions); any (JSON).
"""

from __future__ import annotations

import binascii
import contextlib
import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterable
from functools import cached_property
from json.encoder import encode_basestring_ascii
from mmap import mmap
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from killable.workers.protocol.message_bounds import (
    INLINE_BYTES_MAX,
    RESULT_BYTES_IN_PIECES_MIN,
    RESULT_BYTES_IN_PIPE_MAX,
)
from killable.workers.protocol.messages import dump_json

if TYPE_CHECKING:
    from killable.workers.protocol.pickling import Pickled
    from killable.workers.protocol.shared_memory import MemoryFile

JSON_DEPTH_MAX = 200
"""Levels of nesting. Other parsers stop at 128 to 256; Python's own stops where its stack happens to end."""
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
"""Types that plain pickle and cloudpickle encode in the same way."""
_SMALL = frozenset({int, float, bool, type(None)})
"""Types whose values plain pickle sends, and which are small."""
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _plain(value: Any) -> Any:
    """Return what JSON has for a value that it does not have. Raise TypeError or ValueError."""
    from killable.workers.protocol.plain_values import plain_value  # here: most results are JSON as they are

    return plain_value(value)


_encode_any = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Unserializable(Exception):
    """A value that the codec cannot encode. `path` locates the part at fault (`$.a[3]`; `$`: all of it), `type_name` is
    its type.
    """

    def __init__(self, path: str, type_name: str, why: str) -> None:
        super().__init__(f"{type_name} cannot be sent: {why}" if path == "$" else f"{type_name} at {path}: {why}")
        self.path, self.type_name, self.why = path, type_name, why


class TooLarge(Unserializable):
    """An encoded value that is larger than a pipe takes."""


class Codec(Protocol):
    name: str

    def decode_input(self, payload: bytes | mmap | memoryview, shared: Iterable[MemoryFile] = ()) -> Any:
        """Return the input; a valid one maps parameter names to values. It may refer to a mapping, never to bytes.

        `shared`: parts of it in memory files, which may be closed afterwards.
        """
        ...

    def encode_value(self, value: Any) -> bytes:
        """Encode a result or a checkpoint. Raise Unserializable."""
        ...

    def decode_value(self, payload: bytes) -> Any:
        """Return what `encode_value` has encoded."""
        ...

    def encode_token(self, value: Any) -> bytes:
        """Encode a value that a job yielded or emitted. Raise Unserializable."""
        ...

    def encode_result(self, value: Any, result_buffer: int) -> bytes | list[bytes] | None:
        """Encode a result; a large one in pieces. Return None if it went into the file descriptor `result_buffer` (-1:
        none).

        Raise Unserializable.
        """
        ...

    def encode_exception(self, error: BaseException) -> bytes:
        """Encode an exception of a job, so that the caller can raise it again; empty if that is impossible."""
        ...


class JsonCodec:
    name = "json"

    def decode_input(self, payload: bytes | mmap | memoryview, shared: Iterable[MemoryFile] = ()) -> Any:
        # str(), not bytes(): one copy less from a mapping. Lone surrogates are escapes in our JSON.
        return json.loads(str(payload, "utf-8")) if payload else {}

    def encode_value(self, value: Any) -> bytes:
        if type(value) is bytes:
            return b'{"base64":"' + binascii.b2a_base64(value, newline=False) + b'"}'
        try:
            payload = _encode_any(value).encode("ascii")
        except (TypeError, ValueError, RecursionError) as error:
            raise find_unserializable(value, error) from error
        if _brackets_nest_deeply(payload):
            too_deep = _find(value, lambda part, depth: depth > JSON_DEPTH_MAX and "is nested too deeply")
            if too_deep is not None:
                raise too_deep
        return payload

    def decode_value(self, payload: bytes) -> Any:
        if payload.startswith(b'{"base64":"'):
            members = json.loads(payload)
            if len(members) == 1 and isinstance(text := members["base64"], str):
                with contextlib.suppress(ValueError):  # the job itself may have checkpointed such an object
                    return binascii.a2b_base64(text, strict_mode=True)
            return members
        return json.loads(payload)

    def encode_result(self, value: Any, result_buffer: int) -> bytes:
        return self.encode_value(value)

    def encode_exception(self, error: BaseException) -> bytes:
        return b""

    def encode_token(self, value: Any) -> bytes:
        """`str` → {"text": …} · `bytes` → {"base64": …} · other JSON → {"value": …}."""
        if type(value) is str:
            # json's own C function for one string: a fifth of the cost of dumps, for millions of tokens.
            return b'{"text":' + encode_basestring_ascii(value).encode("ascii") + b"}"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.encode_value(bytes(value))
        if isinstance(value, str):
            return b'{"text":' + dump_json(str(value)) + b"}"
        return b'{"value":' + self.encode_value(value) + b"}"


class PickleCodec:
    """Imports `pickling` on first use: it needs cloudpickle, which only an Executor requires."""

    name = "pickle"

    @cached_property
    def _pickles(self) -> ModuleType:
        from killable.workers.protocol import pickling

        return pickling

    def decode_input(self, payload: bytes | mmap | memoryview, shared: Iterable[MemoryFile] = ()) -> Any:
        return self._pickles.loads(payload, shared)

    def encode_value(self, value: Any) -> bytes:
        return self._pickled(value).to_bytes()

    def decode_value(self, payload: bytes) -> Any:
        return self._pickles.loads(payload)

    def encode_token(self, value: Any) -> bytes:
        """Encode a token as one pickle in one piece: values that come often are small."""
        if type(value) in _PLAIN:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return b"".join(self._pickled(value, beside=False).parts)

    def encode_result(self, value: Any, result_buffer: int) -> bytes | list[bytes] | None:
        if type(value) in _SMALL:
            encoded: bytes = self._pickles.in_band(value)
            return encoded
        found = self._pickled(value)
        size = found.size
        if RESULT_BYTES_IN_PIECES_MIN <= size <= RESULT_BYTES_IN_PIPE_MAX:
            return found.pieces()
        if result_buffer < 0 or size <= RESULT_BYTES_IN_PIPE_MAX:
            return found.to_bytes()
        try:
            found.lay(result_buffer)
        except BaseException as error:
            os.ftruncate(result_buffer, 0)  # the next result goes there
            os.lseek(result_buffer, 0, os.SEEK_SET)
            if isinstance(error, OSError):  # RLIMIT_FSIZE, or no memory for a memory file: the pipe may take it
                return found.to_bytes()
            raise
        return None

    def encode_exception(self, error: BaseException) -> bytes:
        try:
            encoded: bytes = self._pickles.raised(error).to_bytes()
        except Exception:  # pickling runs the user's __reduce__, which may raise anything
            return b""
        return encoded if len(encoded) <= INLINE_BYTES_MAX else b""

    def _pickled(self, value: object, *, beside: bool = True) -> Pickled:
        try:
            found: Pickled = self._pickles.returned(value, beside=beside)
            return found
        except Exception as error:  # pickling runs the user's __reduce__, which may raise anything
            raise Unserializable("$", type(value).__qualname__, str(error)) from error


CODECS: dict[str, Codec] = {"json": JsonCodec(), "pickle": PickleCodec()}


def _brackets_nest_deeply(payload: bytes) -> bool:
    """Return whether the value may be nested too deeply. Quick; False is certain (brackets in texts count as well)."""
    if payload.count(b"[") + payload.count(b"{") <= JSON_DEPTH_MAX:
        return False
    brackets = payload.translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEP.__getitem__, brackets))) > JSON_DEPTH_MAX


def find_unserializable(value: Any, error: Exception) -> Unserializable:
    """Return an Unserializable for the first part of a value that is not JSON."""
    return _find(value, _why_not_json) or Unserializable("$", type(value).__qualname__, str(error))


def _why_not_json(part: Any, depth: int) -> str | Literal[False]:
    if depth > JSON_DEPTH_MAX:
        return "is nested too deeply, or refers to itself"
    if isinstance(part, float) and part - part != 0.0:
        return f"{part} is not JSON"
    if part is None or isinstance(part, (str, int, float, list, tuple)):
        return False
    if not isinstance(part, dict):
        try:
            _plain(part)
        except Exception as error:  # a model's own code
            return str(error)
        return False
    wrong = next((key for key in part if not isinstance(key, (str, int, float, bool, type(None)))), None)
    return False if wrong is None else f"the key {wrong!r} is not a JSON key"


def _find(value: Any, why: Callable[[Any, int], str | Literal[False]]) -> Unserializable | None:
    """Return the first part, in the order of the text, for which `why` returns a reason. Does not recurse."""
    waiting: list[tuple[Any, str, int]] = [(value, "$", 0)]
    while waiting:
        part, path, depth = waiting.pop()
        reason = why(part, depth)
        if reason:
            return Unserializable(path, type(part).__qualname__, reason)
        if isinstance(part, dict):
            waiting.extend((member, f"{path}.{key}", depth + 1) for key, member in reversed(part.items()))
        elif isinstance(part, (list, tuple)):
            waiting.extend((part[i], f"{path}[{i}]", depth + 1) for i in range(len(part) - 1, -1, -1))
        elif not (part is None or isinstance(part, (str, int, float))):
            waiting.append((_plain(part), path, depth + 1))
    return None
