"""The answers that are no text: vectors, tokens, and the text of tokens.

Runs in: api. Pure. Vectors, and what is long, are spliced as the JSON that the worker has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from killable.api.http.writes import Piece
from killable.api.openai.chat_choices import OBJECT_BYTES_MAX, TEXT_BEGINS
from killable.api.openai.large_answers import LOOKED_BYTES
from killable.supervisor.jobs.event_log import BETWEEN_ATTEMPTS
from killable.supervisor.models import JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

_VALUE_BEGINS = b'{"value":'
_TOKENS, _CONTENT = b'"tokens":[', b'"content":"'
_decode = json.JSONDecoder().raw_decode


class _OfOneJob:
    """A whole answer of one job."""

    def __init__(self) -> None:
        self.record: JobRecord | None = None

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        pass

    def take_record(self, number: int, record: JobRecord) -> None:
        self.record = record

    def failure(self, number: int) -> dict[str, Any] | None:
        return None if self.record is None else self.record.error

    @property
    def payload(self) -> bytes:
        """Return what the job has returned, as JSON."""
        assert self.record is not None and self.record.result is not None
        return self.record.result

    @property
    def is_small(self) -> bool:
        """Return whether it may be parsed between two kills."""
        return len(self.payload) <= OBJECT_BYTES_MAX

    @property
    def result(self) -> dict[str, Any]:
        """Return what the job has returned. Raise ValueError if that is no object."""
        if not self.is_small:
            raise ValueError("a result that is to be told has 256 KiB at most")
        found = json.loads(self.payload)
        if not isinstance(found, dict):
            raise ValueError("the job has returned no object")
        return found


class Embeddings(_OfOneJob):
    """Vectors, one for each text."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model
        self._vectors: list[bytes] = []

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        for _, name, data in batch:
            if name in BETWEEN_ATTEMPTS:
                self._vectors = []
            elif name == "token":
                if not data.startswith((_VALUE_BEGINS, TEXT_BEGINS)):
                    raise ValueError("a vector is a list of numbers, or base64 of them")
                self._vectors.append(data[len(_VALUE_BEGINS) : -1] if data.startswith(_VALUE_BEGINS) else data[8:-1])

    def whole(self) -> Iterable[Piece]:
        usage = self.result.get("usage") if self.record and self.record.result not in (None, b"null") else None
        usage = usage if isinstance(usage, dict) else {"prompt_tokens": 0, "total_tokens": 0}
        yield dump_json({"object": "list", "model": self._model})[:-1] + b',"data":['
        for number, vector in enumerate(self._vectors):
            begin = b"," if number else b""
            yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (begin, number, vector)
        yield b"]," + dump_json({"usage": usage})[1:]


class TokensOfText(_OfOneJob):
    """The tokens of a text, as llama.cpp's server and as vLLM's answer."""

    def whole(self) -> Iterable[Piece]:
        """Yield the answer. Raise ValueError. Many tokens are parsed a few at a time, and told as they are."""
        if self.is_small:
            found = self.result
            tokens = found.get("tokens") or []
            if not isinstance(tokens, list):
                raise ValueError("tokens are a list")
            yield dump_json({"tokens": tokens, "count": len(tokens), "max_model_len": found.get("max_model_len")})
            return
        payload, count = self.payload, 0
        start = stop = _behind(payload, _TOKENS)
        yield b'{"tokens":['
        for piece, number in _elements(payload, start):
            count += number
            stop += len(piece)
            yield piece
        more = _rest(payload, _TOKENS, start, stop - 1)
        yield b"," + dump_json({"count": count, "max_model_len": more.get("max_model_len")})[1:]


class TextOfTokens(_OfOneJob):
    """The text of tokens, as llama.cpp's server and as vLLM's answer."""

    def whole(self) -> Iterable[Piece]:
        """Yield the answer. Raise ValueError. A long text is not parsed, and is the last member."""
        if self.is_small:
            text = self.result.get("content", "")
            yield dump_json({"content": text, "prompt": text})
            return
        payload = self.payload
        start, stop = _behind(payload, _CONTENT), payload.rfind(b'"')
        _rest(payload, _CONTENT, start, stop)
        yield b'{"content":"'
        yield from _of_string(payload, start, stop)
        yield from (b'","prompt":"', memoryview(payload)[start:stop], b'"}')


def _behind(payload: bytes, begin: bytes) -> int:
    """Return where a member's value begins. Raise ValueError if there is no such member."""
    found = payload.find(begin)
    if found < 0:
        raise ValueError("the job has not returned what it was asked for")
    return found + len(begin)


def _rest(payload: bytes, begin: bytes, start: int, stop: int) -> dict[str, Any]:
    """Return an object without what its large member has. Raise ValueError for one of which that is not the only one
    with this name, or not all that is large.
    """
    rest = payload[:start] + payload[stop:]
    if len(rest) > OBJECT_BYTES_MAX or rest.count(begin) != 1:
        raise ValueError("the job has returned more than it was asked for")
    found = json.loads(rest)
    if not isinstance(found, dict) or json.loads(begin[:-2]) not in found:
        raise ValueError("the job has not returned what it was asked for")
    return found


def _elements(payload: bytes, start: int) -> Iterable[tuple[Piece, int]]:
    """Yield the elements of a list some at a time, with their number and what follows them: a comma, at last its end.
    Raise ValueError for one that is larger than LOOKED_BYTES.
    """
    view, end = memoryview(payload), ""
    while end != "]":
        block, stop, number = str(view[start : start + LOOKED_BYTES], "ascii"), 0, 0
        with suppress(ValueError, RecursionError):  # of the element that goes on behind this block
            while end != "]":
                _, found = _decode(block, stop)
                end = block[found : found + 1]
                if end not in (",", "]"):  # a number may go on, too
                    break
                stop, number = found + 1, number + 1
        if not stop:
            raise ValueError("a token is small")
        yield view[start : start + stop], number
        start += stop


def _of_string(payload: bytes, start: int, stop: int) -> Iterable[Piece]:
    """Yield what stands in a JSON string. Raise ValueError if it ends before."""
    while start < stop:
        end = min(start + LOOKED_BYTES, stop)
        piece = payload[start:end]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and end < stop:  # the next byte is part of the text, also a quote
            end += 1
            piece = payload[start:end]
        if b'"' in piece.replace(b"\\\\", b"").replace(b'\\"', b""):
            raise ValueError("the job has returned more than it was asked for")
        yield piece
        start = end
