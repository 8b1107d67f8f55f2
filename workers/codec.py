"""How values travel: the codec of a pool, `json` for the service and `pickle` where caller and code are one person.

Runs in: worker (both directions); any (JSON).
"""

from __future__ import annotations

import base64
import json
import pickle
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from killable.workers.messages import dump_json


class Unserializable(Exception):
    """A value that the codec cannot send: `path` is where inside it (`$.a[3]`), `type` is what stands there."""

    def __init__(self, path: str, type_name: str, why: str) -> None:
        super().__init__(f"{type_name} at {path}: {why}")
        self.path, self.type_name, self.why = path, type_name, why


class Codec(Protocol):
    name: str

    def decode_input(self, payload: bytes) -> dict[str, Any]:
        """Return the job's parameters by name."""
        ...

    def encode_value(self, value: Any) -> bytes:
        """Encode a result or a checkpoint. Raise Unserializable."""
        ...

    def encode_token(self, value: Any) -> bytes:
        """Encode what a job yielded or emitted. Raise Unserializable."""
        ...


class JsonCodec:
    name = "json"

    def decode_input(self, payload: bytes) -> dict[str, Any]:
        value = json.loads(payload) if payload else {}
        if not isinstance(value, dict):
            raise ValueError(f"the input must be an object, not {type(value).__name__}")
        return value

    def encode_value(self, value: Any) -> bytes:
        if type(value) is bytes:
            return b'{"base64":"' + base64.b64encode(value) + b'"}'
        try:
            return dump_json(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise find_unserializable(value, error) from error

    def encode_token(self, value: Any) -> bytes:
        """`str` → {"text": …} · `bytes` → {"base64": …} · other JSON → {"value": …}."""
        if type(value) is str:
            # json's own C function for one string: a fifth of what dumps costs, and there are millions of tokens.
            return b'{"text":' + encode_basestring_ascii(value).encode("ascii") + b"}"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.encode_value(bytes(value))
        if isinstance(value, str):
            return b'{"text":' + dump_json(str(value)) + b"}"
        return b'{"value":' + self.encode_value(value) + b"}"


class PickleCodec:
    name = "pickle"

    def decode_input(self, payload: bytes) -> dict[str, Any]:
        value = pickle.loads(payload)
        if not isinstance(value, dict):
            raise ValueError(f"the input must be a dict of parameters, not {type(value).__name__}")
        return value

    def encode_value(self, value: Any) -> bytes:
        try:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # pickling runs the user's __reduce__: anything can come
            raise Unserializable("$", type(value).__qualname__, str(error)) from error

    encode_token = encode_value


CODECS: dict[str, Codec] = {"json": JsonCodec(), "pickle": PickleCodec()}


def find_unserializable(value: Any, error: Exception) -> Unserializable:
    """Return where inside a value the first part stands that is not JSON."""
    seen: set[int] = set()

    def walk(part: Any, path: str) -> Unserializable | None:
        if part is None or isinstance(part, (str, int)):
            return None
        if isinstance(part, float):
            finite = part - part == 0.0
            return None if finite else Unserializable(path, "float", f"{part} is not JSON")
        if not isinstance(part, (dict, list, tuple)):
            return Unserializable(path, type(part).__qualname__, "not a JSON type")
        if id(part) in seen or len(path) > 2000:
            return Unserializable(path, type(part).__qualname__, "refers to itself, or is nested too deeply")
        seen.add(id(part))
        items: Any = part.items() if isinstance(part, dict) else enumerate(part)
        for key, member in items:
            if isinstance(part, dict) and not isinstance(key, (str, int, float, bool, type(None))):
                return Unserializable(f"{path}.{key!r}", type(key).__qualname__, "not a JSON key")
            found = walk(member, f"{path}.{key}" if isinstance(part, dict) else f"{path}[{key}]")
            if found is not None:
                return found
        seen.discard(id(part))
        return None

    return walk(value, "$") or Unserializable("$", type(value).__qualname__, str(error))
