"""The Responses API over a job: the response in its present state, and its events, the same at each request.

Runs in: api. Pure. A response is the record of a job and what it has said; nothing else is kept of it.

    events of the job ──► response.created … output_text.delta … response.completed, numbered from 0
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from killable.api.http.record_json import usage_of as usage_of_record
from killable.api.http.writes import Piece
from killable.api.openai.chat_choices import (
    BegunAnew,
    Choice,
    usage_of,
)
from killable.api.openai.request_inputs import IDENTIFYING
from killable.api.openai.responses_api_request import TOLD
from killable.supervisor.jobs.event_log import BETWEEN_ATTEMPTS
from killable.supervisor.jobs.job_events import RESULT_INLINE_BYTES_MAX
from killable.supervisor.models import TERMINAL_STATES, JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

RESPONSE = "resp_"
_STATUSES = {"queued": "queued", "running": "in_progress", "stopping": "in_progress", "cancelled": "cancelled"}
_INVALID = "input.invalid"
_NOT_KNOWN = dump_json(dict.fromkeys(TOLD))[1:-1]
"""What a request has set is not kept with its job."""


def response_id(job_id: str) -> str:
    return RESPONSE + job_id.removeprefix("job-")


def job_id_of(response_id: str) -> str:
    """Return the job's id; of anything else one that no job has."""
    return "job-" + response_id.removeprefix(RESPONSE) if response_id.startswith(RESPONSE) else response_id


class OpenAIResponse:
    """One response. It is a form of an `Answer`."""

    def __init__(self, record: JobRecord, model: str, told: bytes = _NOT_KNOWN, after: int = -1) -> None:
        """`told`: what it repeats of its request, as members of JSON. `after`: the last event that its reader has."""
        self._record = record
        self._id = response_id(record.job_id)
        self._message_id = "msg_" + record.job_id.removeprefix("job-")
        self._model = model
        self._told = told
        self._after = after
        self._choice = Choice()
        self._sequence = 0
        self._is_begun = False
        self._has_item = False
        self._item_begins = 0
        """The number of the attempt's first event."""
        self._first_id = record.first_id
        """What a job has said before was void already when this reader came: it is numbered, and not told."""

    # ── as it stands ──

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        self._choice.take(batch)

    def take_record(self, number: int, record: JobRecord) -> None:
        self._record = record
        if record.ended:
            self._choice.take_record(record)

    def whole(self) -> list[Piece]:
        members = self._members()
        return self._response(members, self._output(members["status"]))

    def _response(self, members: dict[str, Any], output: Sequence[Piece] = ()) -> list[Piece]:
        return [dump_json(members)[:-1], b",", self._told, b',"output":[', *output, b"]}"]

    def _members(self) -> dict[str, Any]:
        """Return the response object without its output, and without what it repeats of its request."""
        record = self._record
        status = _STATUSES.get(record.state, "failed")
        usage = incomplete = None
        if record.state == "completed":
            is_cut = self._choice.finish_reason == "length"
            status, incomplete = ("incomplete", {"reason": "max_output_tokens"}) if is_cut else ("completed", None)
            usage = self._usage()
        elif record.ended:
            usage = self._usage()
        return {
            "id": self._id,
            "object": "response",
            "created_at": seconds(record.created_at),
            "status": status,
            "error": _error(record.error) if status == "failed" else None,
            "incomplete_details": incomplete,
            "metadata": {name: tag for name, tag in record.tags.items() if name not in IDENTIFYING},
            "model": self._model,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "truncation": "disabled",
            "usage": usage,
        }

    def _usage(self) -> dict[str, Any]:
        """Return what was counted; of one that was stopped what its job has reported and said."""
        counted = usage_of([self._choice], 1)
        if self._record.state != "completed":
            told = self._record.partial or b"null"
            partial = json.loads(told) if len(told) <= RESULT_INLINE_BYTES_MAX else None
            counted |= usage_of_record(None, partial, self._choice.tokens) or {}
        return {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": counted["prompt_tokens_details"].get("cached_tokens", 0)},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted["total_tokens"],
        }

    def _output(self, status: str) -> list[Piece]:
        pieces: list[Piece] = []
        if self._has_message:
            pieces += self._message(status)
        for item in self._call_items(status):
            pieces.append(b"," + dump_json(item) if pieces else dump_json(item))
        return pieces

    @property
    def _has_message(self) -> bool:
        """Whether a message is among its items: one that only calls tools has none."""
        return bool(self._choice.texts) or (self._record.state == "completed" and not self._choice.calls)

    def _call_items(self, status: str) -> list[dict[str, Any]]:
        """Return the calls of tools as items. Only the last may not be whole."""
        calls, job_id = self._choice.calls, self._record.job_id
        return [
            *(_call_item(call, job_id, "completed") for call in calls[:-1]),
            *(_call_item(call, job_id, _status_of_item(status)) for call in calls[-1:]),
        ]

    def _message(self, status: str) -> list[Piece]:
        head = {"id": self._message_id, "type": "message", "status": _status_of_item(status), "role": "assistant"}
        return [dump_json(head)[:-1], b',"content":[', *self._part(), b"]}"]

    def _part(self) -> list[Piece]:
        logprobs = self._choice.logprobs_of_content
        begin, end = b'{"type":"output_text","text":"', b'","annotations":[],"logprobs":'
        return [begin, self._choice.texts, end, *logprobs, b"}"]

    # ── as a stream ──

    def begin(self) -> list[Piece]:
        """Return the events of a response that has said nothing yet. Who can come back needs its id to do so."""
        return list(self._begin())

    def failure(self, number: int) -> dict[str, Any] | None:
        """Return the error of a job that has failed before its stream has begun; later ones are in the stream."""
        return None if self._is_begun else self._choice.error

    def end(self) -> bytes:
        return b""

    def error(self, content: dict[str, Any]) -> bytes:
        error = content["error"]
        members = {"type": "error", "code": error["code"], "message": error["message"], "param": error["param"]}
        return b"event: error\ndata: %b\n\n" % dump_json(members | {"sequence_number": self._sequence})

    def stream(self, number: int, batch: Sequence[JobEvent]) -> Iterable[Piece]:
        """Yield the events that its reader does not have. Raise ValueError, BegunAnew."""
        for id, name, data in batch:
            if name == "token":
                text, logprobs = self._choice.take_token(data)
                yield from self._begin()
                pieces = [*self._begin_item(), self._delta(text, logprobs)] if text else ()
                if id >= self._first_id:
                    yield from pieces
            elif name in BETWEEN_ATTEMPTS:
                self._forget(id)
            elif name in TERMINAL_STATES:
                yield from self._end(name, data)

    def _begin(self) -> Iterable[Piece]:
        if self._is_begun:
            return
        self._is_begun = True
        self._record = self._record._replace(state="running")
        for event in (b"response.created", b"response.in_progress"):
            yield from self._large(event, b'"response":', *self._response(self._members()))

    def _forget(self, id: int) -> None:
        """Forget what was said before the event with this id, which is void. Raise BegunAnew if its reader has it."""
        if self._has_item:
            if id >= self._first_id or self._item_begins <= self._after <= self._sequence:
                raise BegunAnew
            self._has_item = False
            self._sequence += 1  # that of the error that its readers have got
        self._choice.forget()

    def _begin_item(self) -> Iterable[bytes]:
        if self._has_item:
            return
        self._has_item, self._item_begins = True, self._sequence
        item = {"id": self._message_id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        yield self._event("response.output_item.added", {"output_index": 0, "item": item})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._event("response.content_part.added", {**self._place, "part": part})

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _delta(self, text: bytes, logprobs: bytes) -> bytes:
        return self._spliced(
            b"response.output_text.delta",
            b'"item_id":"%b","output_index":0,"content_index":0,"delta":"%b","logprobs":%b'
            % (self._message_id.encode(), text, logprobs),
        )

    def _end(self, name: str, data: bytes) -> Iterable[Piece]:
        """Yield the end of the message, that of calls of tools, and that of the response."""
        members = json.loads(data)
        self._choice.take_end(data)
        if not self._is_begun and self._choice.error is not None and name != "cancelled":
            return  # its answer has a status
        yield from self._begin()
        result, partial = members["result"], members["partial"]
        self._record = self._record._replace(
            state=name,
            error=members["error"],
            result=None if result is None else dump_json(result),
            partial=None if partial is None else dump_json(partial),
        )
        response = self._members()
        if name == "completed":
            if self._has_message:
                yield from self._end_item(response["status"])
            for index, item in enumerate(self._call_items(response["status"]), int(self._has_message)):
                yield self._event("response.output_item.added", {"output_index": index, "item": item})
                arguments = {"item_id": item["id"], "output_index": index, "arguments": item["arguments"]}
                yield self._event("response.function_call_arguments.done", {**arguments, "name": item["name"]})
                yield self._event("response.output_item.done", {"output_index": index, "item": item})
        ended = f"response.{response['status']}".encode()
        yield from self._large(ended, b'"response":', *self._response(response, self._output(response["status"])))

    def _end_item(self, status: str) -> Iterable[Piece]:
        yield from self._begin_item()
        text, place = self._choice.texts, dump_json(self._place)[1:-1]
        yield from self._large(b"response.output_text.done", place, b',"text":"', text, b'","logprobs":[]')
        yield from self._large(b"response.content_part.done", place, b',"part":', *self._part())
        message = self._message(status)
        yield from self._large(b"response.output_item.done", b'"output_index":0,"item":', *message)

    def _event(self, name: str, members: dict[str, Any]) -> bytes:
        return self._spliced(name.encode(), dump_json(members)[1:-1])

    def _spliced(self, name: bytes, members: bytes) -> bytes:
        return b"".join(self._large(name, members))

    def _large(self, name: bytes, *members: Piece) -> Iterable[Piece]:
        """Yield an event in pieces, none of which is copied here."""
        number, self._sequence = self._sequence, self._sequence + 1
        if number <= self._after:
            return
        yield b'event: %b\ndata: {"type":"%b","sequence_number":%d,' % (name, name, number)
        yield from members
        yield b"}\n\n"


def seconds(time: str) -> int:
    """Return a time of a record as seconds since 1970."""
    return int(datetime.datetime.fromisoformat(time).timestamp())


def _error(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if error is None:
        return None
    code = "invalid_prompt" if error["code"] == _INVALID else "server_error"
    return {"code": code, "message": f"{error['code']}: {error['message']}"}


def _status_of_item(status: str) -> str:
    """Return how an item of a response stands that may not be whole."""
    return status if status in ("completed", "in_progress") else "incomplete"


def _call_item(call: dict[str, Any], job_id: str, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{call['id'] or job_id.removeprefix('job-')}",
        "type": "function_call",
        "status": status,
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
    }
