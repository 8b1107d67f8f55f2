"""Anthropic's Messages API over a job: the message, and the events of its stream.

Runs in: api. Pure.

    events of the job ──► message_start, content_block_* of the text and each call, message_delta, message_stop
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from killable.api.http.writes import Piece
from killable.api.openai.chat_choices import BegunAnew, Choice, usage_of
from killable.supervisor.jobs.event_log import BETWEEN_ATTEMPTS
from killable.supervisor.models import TERMINAL_STATES, JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

_STOPS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}


class Message:
    """One message. It is a form of an `Answer`."""

    def __init__(self, id: str, model: str) -> None:
        self._head = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._choice = Choice()
        self._is_begun = False
        self._blocks = 0
        """Of the stream, begun so far: the text is the first."""

    # ── whole ──

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        self._choice.take(batch)

    def take_record(self, number: int, record: JobRecord) -> None:
        self._choice.take_record(record)

    def whole(self) -> Iterable[Piece]:
        """Yield the message. Raise ValueError for arguments of a call that are no JSON."""
        calls, texts = [block for block, _ in self._calls()], self._choice.texts
        yield dump_json(self._head)[:-1] + b',"content":['
        if texts:
            yield from (b'{"type":"text","text":"', texts, b'"},' if calls else b'"}')
        yield dump_json(calls)[1:-1]
        yield b"]," + dump_json({**self._stop(), "usage": self._usage()})[1:]

    def _calls(self) -> list[tuple[dict[str, Any], str]]:
        """Return the calls of tools, and the JSON of the input of each, which may be a part where the answer was cut:
        its input is empty then, as there is none. Raise ValueError for arguments that are no JSON.
        """
        calls = []
        for call in self._choice.calls:
            function = call["function"]
            arguments = function["arguments"] or "{}"
            try:
                input = json.loads(arguments)
            except ValueError:
                if self._choice.finish_reason != "length":
                    raise
                input = {}
            calls.append(({"type": "tool_use", "id": call["id"], "name": function["name"], "input": input}, arguments))
        return calls

    def _stop(self) -> dict[str, Any]:
        stopped_at = self._choice.stop_sequence
        reason = "stop_sequence" if stopped_at else _STOPS.get(self._choice.finish_reason, "end_turn")
        return {"stop_reason": reason, "stop_sequence": stopped_at}

    def _usage(self) -> dict[str, int]:
        counted = usage_of([self._choice], 1)
        cached = counted["prompt_tokens_details"]["cached_tokens"]
        # `input_tokens` are those that were not read from a cache.
        return {
            "input_tokens": max(0, counted["prompt_tokens"] - cached),
            "cache_read_input_tokens": cached,
            "output_tokens": counted["completion_tokens"],
        }

    # ── as a stream ──

    def failure(self, number: int) -> dict[str, Any] | None:
        return self._choice.error

    def end(self) -> bytes:
        return b""

    def error(self, content: dict[str, Any]) -> bytes:
        kind = content["error"]["type"]
        told = {"type": "api_error" if kind == "server_error" else kind, "message": content["error"]["message"]}
        return _event(b"error", dump_json({"error": {**told, "code": content["error"]["code"]}})[1:-1])

    def stream(self, number: int, batch: Sequence[JobEvent]) -> Iterable[bytes]:
        """Yield what events add to the stream. Raise ValueError, BegunAnew."""
        for _, name, data in batch:
            if name == "token":
                text, _logprobs = self._choice.take_token(data)
                yield from self._begin()
                if text:
                    if not self._blocks:
                        yield from self._open({"type": "text", "text": ""})
                    yield _event(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"%b"}' % text)
            elif name in BETWEEN_ATTEMPTS and self._is_begun:
                raise BegunAnew
            elif name in TERMINAL_STATES:
                self._choice.take_end(data)
                if self._choice.error is None:
                    yield from self._begin()
                    yield from self._end()

    def _begin(self) -> Iterable[bytes]:
        """Yield the message's beginning. What its prompt has taken is told at its end."""
        if not self._is_begun:
            self._is_begun = True
            usage = {"input_tokens": 0, "output_tokens": 0}
            empty: dict[str, Any] = {
                **self._head,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            }
            yield _event(b"message_start", b'"message":%b' % dump_json(empty))

    def _open(self, block: dict[str, Any]) -> Iterable[bytes]:
        yield _event(b"content_block_start", b'"index":%d,"content_block":%b' % (self._blocks, dump_json(block)))
        self._blocks += 1

    def _end(self) -> Iterable[bytes]:
        calls = self._calls()
        if self._blocks:
            yield _event(b"content_block_stop", b'"index":0')
        for block, arguments in calls:
            index = self._blocks
            yield from self._open({**block, "input": {}})
            delta = {"type": "input_json_delta", "partial_json": arguments}
            yield _event(b"content_block_delta", b'"index":%d,"delta":%b' % (index, dump_json(delta)))
            yield _event(b"content_block_stop", b'"index":%d' % index)
        yield _event(b"message_delta", b'"delta":%b,"usage":%b' % (dump_json(self._stop()), dump_json(self._usage())))
        yield _event(b"message_stop", b"")


def _event(name: bytes, members: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b"%b}\n\n' % (name, name, b"," + members if members else b"")
