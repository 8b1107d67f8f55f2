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
CALLS_MAX = 1000
CALLS_CHARS_MAX = 8 << 20
"""Of the calls of tools in a whole answer, their names and arguments: they are joined and written at its end."""


class BegunAnew(ValueError):
    """The attempt whose answer was streamed has failed, and another one begins."""


class Choice:
    """What one job has said so far: as the JSON that it becomes in an answer, of which nothing is parsed again."""

    def __init__(self, text_member: str = "content") -> None:
        """`text_member`: that of a token which is an object."""
        self.error: dict[str, Any] | None = None
        """How it has failed."""
        self._result: Any = None
        self._text_member = text_member
        self.forget()

    def forget(self) -> None:
        """Forget what an attempt has said that another one follows."""
        self.texts, self.thoughts = bytearray(), bytearray()
        """The JSON strings of its whole text, and of its reasoning, without quotes."""
        self.tokens = 0
        self.has_calls = False
        self._logprobs: dict[str, bytes | bytearray] = {}
        """Members of its log probabilities: lists without their ends, joined, and other values."""
        self._calls: dict[int, _Call] = {}
        self._calls_chars = 0

    def take_token(self, data: bytes) -> tuple[bytes, bytes]:
        """Take a token. Return the JSON string of its text without quotes, and the list of its log probabilities.
        Raise ValueError.
        """
        self.tokens += 1
        logprobs = b"[]"
        if data.startswith(TEXT_BEGINS) and data.endswith(TEXT_ENDS):
            text = data[9:-2]
        else:
            value = value_of(data)
            if isinstance(value, dict):
                logprobs = self._take_members(value)
                value = str(value.get(self._text_member) or "")
            text = dump_json(value)[1:-1]
        self.texts += text
        return text, logprobs

    def _take_members(self, value: dict[str, Any]) -> bytes:
        """Take what an object has beside its text. Return the list of its log probabilities."""
        self.has_calls = self.has_calls or "tool_calls" in value
        if thought := value.get("reasoning_content"):
            self.thoughts += dump_json(str(thought))[1:-1]
        for piece in value.get("tool_calls") or ():
            self._take_call(piece)
        told = b"[]"
        for name, member in (value.get("logprobs") or {}).items():
            content = dump_json(member)
            if not isinstance(member, list):
                self._logprobs.setdefault(name, content)
                continue
            joined = self._logprobs.get(name)
            if not isinstance(joined, bytearray):
                joined = self._logprobs[name] = bytearray(b"[")
            elif member and len(joined) > 1:
                joined += b","
            joined += content[1:-1]
            told = content if name == "content" else told
        return told

    def _take_call(self, piece: dict[str, Any]) -> None:
        """Take a piece of a call of a tool. Raise ValueError for more than a whole answer may have."""
        call = self._calls.setdefault(piece.get("index", 0), _Call())
        function = piece.get("function") or {}
        call.id = piece.get("id") or call.id
        call.names.append(function.get("name") or "")
        call.arguments.append(function.get("arguments") or "")
        self._calls_chars += len(call.names[-1]) + len(call.arguments[-1])
        if len(self._calls) > CALLS_MAX or self._calls_chars > CALLS_CHARS_MAX:
            raise ValueError("too many calls of tools")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Return the calls of tools that came in pieces, by their index."""
        return [call.json() for _, call in sorted(self._calls.items())]

    @property
    def logprobs(self) -> list[bytes | bytearray]:
        """Return the log probabilities of all tokens as pieces of JSON: lists, joined member by member."""
        pieces: list[bytes | bytearray] = []
        for name, content in self._logprobs.items():
            pieces += (b"," if pieces else b"{", dump_json(name), b":", content)
            pieces.append(b"]" if isinstance(content, bytearray) else b"")
        return [*pieces, b"}"] if pieces else [b"null"]

    @property
    def logprobs_of_content(self) -> list[bytes | bytearray]:
        """Return the list of those of the text as pieces of JSON."""
        content = self._logprobs.get("content")
        return [content, b"]"] if isinstance(content, bytearray) else [b"[]"]

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

    @property
    def finish_reason(self) -> str:
        """Return why it ended, in OpenAI's words; a reason that these do not have is `stop`."""
        reason = self._result.get("finish_reason") if isinstance(self._result, dict) else None
        if isinstance(reason, str) and reason in FINISH_REASONS:
            return reason
        return "tool_calls" if self.has_calls else "stop"

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


class _Call:
    """A call of a tool, in pieces."""

    def __init__(self) -> None:
        self.id = ""
        self.names: list[str] = []
        self.arguments: list[str] = []

    def json(self) -> dict[str, Any]:
        function = {"name": "".join(self.names), "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


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
        self._is_chat = kind == "chat"
        self.choices = [Choice("content" if self._is_chat else "text") for _ in range(choices)]
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
        choice.has_calls = choice.has_calls or "tool_calls" in value
        rest = {name: member for name, member in value.items() if name != "logprobs"}
        body = {"delta": rest} if self._is_chat else {"text": str(rest.get("text", ""))}
        return self._chunk(number, {**body, "logprobs": value.get("logprobs")}, None)

    def _chunk(self, number: int, body: dict[str, Any], finish_reason: str | None) -> bytes:
        members = dump_json({"logprobs": None} | body | {"finish_reason": finish_reason})[1:]
        return self._begins[number] + members + self._ends

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        """Take events of a choice whose whole answer is wanted. Raise ValueError."""
        self.choices[number].take(batch)

    def take_record(self, number: int, record: JobRecord) -> None:
        self.choices[number].take_record(record)

    def failure(self, number: int) -> dict[str, Any] | None:
        return self.choices[number].error

    def error(self, content: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % dump_json(content)

    def whole(self) -> Iterable[bytes | bytearray]:
        """Yield the answer of choices that have all completed."""
        yield dump_json(self._head)[:-1]
        for number, choice in enumerate(self.choices):
            yield b"," if number else b',"choices":['
            yield from self._whole(number, choice)
        yield b'],"usage":%b}' % dump_json(usage_of(self.choices, self._n))

    def _whole(self, number: int, choice: Choice) -> Iterable[bytes | bytearray]:
        calls = choice.calls
        is_null = self._is_chat and calls and not choice.texts
        text = (b"null",) if is_null else (b'"', choice.texts, b'"')
        if self._is_chat:
            yield b'{"index":%d,"message":{"role":"assistant","content":' % number
            yield from text
            if choice.thoughts:
                yield from (b',"reasoning_content":"', choice.thoughts, b'"')
            yield b"," + dump_json({"refusal": None} | ({"tool_calls": calls} if calls else {}))[1:]
        else:
            yield b'{"index":%d,"text":' % number
            yield from text
        yield from (b',"logprobs":', *choice.logprobs)
        yield b',"finish_reason":"%b"}' % choice.finish_reason.encode()
