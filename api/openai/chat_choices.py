"""The choices of an answer, made from the events of their jobs: as chunks of a stream, and whole.

Runs in: api. Pure.

A token of text is spliced into its chunk as the JSON that the worker has written: it is not parsed here. A token that
is an object has members of the delta, and perhaps `logprobs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from killable.supervisor.jobs.event_log import BETWEEN_ATTEMPTS
from killable.supervisor.jobs.job_events import RESULT_INLINE_BYTES_MAX
from killable.supervisor.models import TERMINAL_STATES, JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

TEXT_BEGINS, TEXT_ENDS = b'{"text":"', b'"}'
"""A token of text, as workers write it."""
FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
DONE = b"data: [DONE]\n\n"
OBJECT_BYTES_MAX = 256 << 10
"""Of a token that is an object: it is parsed and written again between two kills."""
_COUNTS = ("prompt_tokens", "completion_tokens")


class BegunAnew(ValueError):
    """The attempt whose answer was streamed has failed, and another one begins."""


class Choice:
    """What one job has said so far."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        """Of the JSON string of its whole text."""
        self.values: list[dict[str, Any]] = []
        self.tokens = 0
        self.error: dict[str, Any] | None = None
        """How it has failed."""
        self._result: Any = None

    def take_token(self, data: bytes) -> tuple[bytes, dict[str, Any]]:
        """Take a token. Return the JSON string of its text without quotes, and its other members. Raise ValueError."""
        self.tokens += 1
        members: dict[str, Any] = {}
        if data.startswith(TEXT_BEGINS) and data.endswith(TEXT_ENDS):
            text = data[9:-2]
        else:
            value = value_of(data)
            if isinstance(value, dict):
                self.values.append(value)
                members, value = value, str(value.get("content") or "")
            text = dump_json(value)[1:-1]
        self.texts.append(text)
        return text, members

    @property
    def text(self) -> str:
        return str(json.loads(b'"%b"' % b"".join(self.texts)))

    def take_end(self, data: bytes) -> None:
        """Take the terminal event."""
        members = json.loads(data)
        self.error, self._result = members["error"], members["result"]

    def take_record(self, record: JobRecord) -> None:
        """Take the record of a job that has ended, instead of that event."""
        self.error = record.error
        result = b"null" if record.result is None else record.result
        self._result = json.loads(result) if len(result) <= RESULT_INLINE_BYTES_MAX else None  # as in that event

    def take(self, batch: Sequence[JobEvent]) -> None:
        """Take the tokens among events of its job. Raise ValueError."""
        for _, name, data in batch:
            if name == "token":
                self.take_token(data)
            elif name in BETWEEN_ATTEMPTS:
                self.forget()

    def forget(self) -> None:
        """Forget what an attempt has said that another one follows."""
        self.texts, self.values, self.tokens = [], [], 0

    @property
    def finish_reason(self) -> str:
        """Return why it ended, in OpenAI's words; a reason that these do not have is `stop`."""
        reason = self._result.get("finish_reason") if isinstance(self._result, dict) else None
        if isinstance(reason, str) and reason in FINISH_REASONS:
            return reason
        return "tool_calls" if any("tool_calls" in value for value in self.values) else "stop"

    @property
    def stop_sequence(self) -> str | None:
        """Return the stop sequence at which it ended, if its job tells it."""
        found = self._result.get("stop_sequence") if isinstance(self._result, dict) else None
        return found if isinstance(found, str) else None

    @property
    def usage(self) -> dict[str, Any]:
        """Return what it counted. A job that counts nothing has a token for each piece of its answer."""
        usage = self._result.get("usage") if isinstance(self._result, dict) else None
        return {"completion_tokens": self.tokens} | (usage if isinstance(usage, dict) else {})


def value_of(data: bytes) -> str | dict[str, Any]:
    """Return a token that is not spliced: a text, or members of a delta. Raise ValueError for anything else."""
    if len(data) > OBJECT_BYTES_MAX:
        raise ValueError("an object in an answer has 256 KiB at most")
    members = json.loads(data)
    if "text" in members:
        return str(members["text"])
    value = members.get("value")
    if not isinstance(value, dict):
        raise ValueError("a piece of an answer is a string or an object")
    calls = value.get("tool_calls") or []
    if not (_is_logprobs(value.get("logprobs")) and isinstance(calls, list) and all(map(_is_call, calls))):
        raise ValueError("logprobs are an object, and calls of tools a list of objects")
    return value


def _is_logprobs(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("content") or [], list))


def _is_call(piece: Any) -> bool:
    """Return whether it is a piece of a call of a tool, which can be joined with others."""
    function = (piece.get("function") or {}) if isinstance(piece, dict) else None
    if not isinstance(function, dict) or type(piece.get("index", 0)) is not int:
        return False
    texts = (piece.get("id"), function.get("name"), function.get("arguments"))
    return all(text is None or isinstance(text, str) for text in texts)


def usage_of(choices: Sequence[Choice], n: int) -> dict[str, Any]:
    """Return what all choices counted; a prompt counts once, however many answers it has."""
    prompt = cached = completion = 0
    for number, choice in enumerate(choices):
        usage = choice.usage
        completion += _count(usage, "completion_tokens")
        if number % n == 0:
            prompt += _count(usage, "prompt_tokens")
            details = usage.get("prompt_tokens_details")
            cached += _count(details, "cached_tokens") if isinstance(details, dict) else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


class Chunks:
    """Turns the events of the jobs of one request into the answer of chat or completions."""

    def __init__(self, kind: str, id: str, created: int, model: str, choices: int, *, n: int, usage: bool) -> None:
        """`usage`: the stream tells it, in a last chunk without choices."""
        self.choices = [Choice() for _ in range(choices)]
        self._is_chat = kind == "chat"
        self._n, self._tells_usage = n, usage
        object = "chat.completion" if self._is_chat else "text_completion"
        streamed = "chat.completion.chunk" if self._is_chat else object
        self._head = {"id": id, "object": object, "created": created, "model": model}
        head = dump_json({**self._head, "object": streamed})[:-1]
        self._begins = [b'data: %b,"choices":[{"index":%d,' % (head, number) for number in range(choices)]
        self._data = b"data: " + head
        self._null = b',"usage":null}\n\n' if usage else b"}\n\n"
        self._ends = b"]" + self._null
        self._text = [begin + (b'"delta":{"content":"' if self._is_chat else b'"text":"') for begin in self._begins]
        close = b'"}' if self._is_chat else b'"'
        self._text_ends = close + b',"logprobs":null,"finish_reason":null}' + self._ends
        self._is_begun = [False] * choices

    def stream(self, number: int, batch: Sequence[JobEvent]) -> Iterable[bytes]:
        """Yield what one choice adds to the stream. Raise ValueError for a token that is no piece of an answer, and
        BegunAnew.
        """
        choice = self.choices[number]
        text, end = self._text[number], self._text_ends
        for _, name, data in batch:
            if name == "token":
                if data.startswith(TEXT_BEGINS) and data.endswith(TEXT_ENDS):
                    piece = text + data[9:-2] + end
                else:
                    piece = self._of_value(number, choice, value_of(data))
                choice.tokens += 1
                if not self._is_begun[number]:
                    self._is_begun[number] = True
                    if self._is_chat:
                        yield self._chunk(number, {"delta": {"role": "assistant", "content": ""}}, None)
                yield piece
            elif name in BETWEEN_ATTEMPTS and self._is_begun[number]:
                raise BegunAnew
            elif name in TERMINAL_STATES:
                choice.take_end(data)
                if choice.error is None:
                    if not self._is_begun[number] and self._is_chat:
                        yield self._chunk(number, {"delta": {"role": "assistant", "content": ""}}, None)
                    body: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
                    yield self._chunk(number, body, choice.finish_reason)

    def end(self) -> bytes:
        """Return the end of a stream whose choices have all completed."""
        if not self._tells_usage:
            return DONE
        usage = dump_json(usage_of(self.choices, self._n))
        return b'%b,"choices":[],"usage":%b}\n\n%b' % (self._data, usage, DONE)

    def _of_value(self, number: int, choice: Choice, value: str | dict[str, Any]) -> bytes:
        if isinstance(value, str):
            return self._chunk(number, {"delta": {"content": value}} if self._is_chat else {"text": value}, None)
        choice.values.append(value)
        rest = {name: member for name, member in value.items() if name != "logprobs"}
        body = {"delta": rest} if self._is_chat else {"text": str(rest.get("text", ""))}
        return self._chunk(number, {**body, "logprobs": value.get("logprobs")}, None)

    def _chunk(self, number: int, body: dict[str, Any], finish_reason: str | None) -> bytes:
        members = dump_json({"logprobs": None} | body | {"finish_reason": finish_reason})[1:]
        return self._begins[number] + members + self._ends

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        """Take events of a choice whose whole answer is wanted. Raise ValueError."""
        choice = self.choices[number]
        for _, name, data in batch:
            if name == "token":
                choice.tokens += 1
                if data.startswith(TEXT_BEGINS) and data.endswith(TEXT_ENDS):
                    choice.texts.append(data[9:-2])
                    continue
                value = value_of(data)
                if isinstance(value, dict):
                    choice.values.append(value)
                    value = str(value.get("content" if self._is_chat else "text") or "")
                choice.texts.append(dump_json(value)[1:-1])
            elif name in BETWEEN_ATTEMPTS:
                choice.forget()

    def take_record(self, number: int, record: JobRecord) -> None:
        self.choices[number].take_record(record)

    def failure(self, number: int) -> dict[str, Any] | None:
        return self.choices[number].error

    def error(self, content: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % dump_json(content)

    def whole(self) -> bytes:
        """Return the answer of choices that have all completed."""
        choices = [self._whole(number, choice) for number, choice in enumerate(self.choices)]
        usage = dump_json(usage_of(self.choices, self._n))
        return b'%b,"choices":[%b],"usage":%b}' % (dump_json(self._head)[:-1], b",".join(choices), usage)

    def _whole(self, number: int, choice: Choice) -> bytes:
        text = b'"%b"' % b"".join(choice.texts)
        rest = dump_json({"logprobs": _logprobs(choice.values), "finish_reason": choice.finish_reason})[1:]
        if not self._is_chat:
            return b'{"index":%d,"text":%b,%b' % (number, text, rest)
        calls = joined_tool_calls(choice.values)
        more: dict[str, Any] = {"refusal": None} | ({"tool_calls": calls} if calls else {})
        if calls and not any(choice.texts):
            text = b"null"
        thought = "".join(str(value.get("reasoning_content") or "") for value in choice.values)
        if thought:
            more["reasoning_content"] = thought
        message = b'{"role":"assistant","content":%b,%b' % (text, dump_json(more)[1:])
        return b'{"index":%d,"message":%b,%b' % (number, message, rest)


def _logprobs(values: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the log probabilities of all tokens: lists, joined member by member."""
    joined: dict[str, Any] = {}
    for value in values:
        if isinstance(found := value.get("logprobs"), dict):
            for name, member in found.items():
                if isinstance(member, list):
                    joined.setdefault(name, []).extend(member)
                else:
                    joined.setdefault(name, member)
    return joined or None


def joined_tool_calls(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls of tools that came in pieces, by their index."""
    calls: dict[int, dict[str, Any]] = {}
    for value in values:
        for piece in value.get("tool_calls") or ():
            call = calls.setdefault(
                piece.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = piece.get("id") or call["id"]
            function = piece.get("function") or {}
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""
    return [calls[index] for index in sorted(calls)]
