"""The answers that are no text: vectors, tokens, and the text of tokens.

Runs in: api. Pure. Vectors are spliced as the JSON that the worker has written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from killable.api.openai.chat_choices import TEXT_BEGINS
from killable.supervisor.jobs.event_log import BETWEEN_ATTEMPTS
from killable.supervisor.models import JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

_VALUE_BEGINS = b'{"value":'


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
    def result(self) -> dict[str, Any]:
        """Return what the job has returned. Raise ValueError if that is no object."""
        assert self.record is not None and self.record.result is not None
        found = json.loads(self.record.result)
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

    def whole(self) -> bytes:
        usage = self.result.get("usage") if self.record and self.record.result not in (None, b"null") else None
        usage = usage if isinstance(usage, dict) else {"prompt_tokens": 0, "total_tokens": 0}
        vectors = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (number, vector)
            for number, vector in enumerate(self._vectors)
        )
        head, tail = dump_json({"object": "list", "model": self._model})[:-1], dump_json({"usage": usage})[1:]
        return b'%b,"data":[%b],%b' % (head, vectors, tail)


class TokensOfText(_OfOneJob):
    """The tokens of a text, as llama.cpp's server and as vLLM's answer."""

    def whole(self) -> bytes:
        found = self.result
        tokens = found.get("tokens") or []
        return dump_json({"tokens": tokens, "count": len(tokens), "max_model_len": found.get("max_model_len")})


class TextOfTokens(_OfOneJob):
    """The text of tokens, as llama.cpp's server and as vLLM's answer."""

    def whole(self) -> bytes:
        text = self.result.get("content", "")
        return dump_json({"content": text, "prompt": text})
