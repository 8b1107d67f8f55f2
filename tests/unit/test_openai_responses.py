"""A response, and its events, from those of its job: the same each time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from killable.api.openai.chat_choices import BegunAnew
from killable.api.openai.responses_api import OpenAIResponse, job_id_of, response_id
from killable.supervisor.models import JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

ID = "job-0b6d7bb4-38ab-4a8e-a4a0-50b5f6f3e1c2"


def record(state: str = "running", **more: Any) -> JobRecord:
    members: dict[str, Any] = dict.fromkeys(JobRecord._fields) | {"first_id": 0} | {
        "job_id": ID, "state": state, "created_at": "2026-12-01T05:00:00Z", "tags": {"user": "u", "a": "b"}, **more,
    }  # fmt: skip
    return JobRecord(**members)


def events(state: str = "completed", *texts: object) -> list[JobEvent]:
    result = {"finish_reason": "stop", "usage": {"prompt_tokens": 2, "completion_tokens": 2}}
    error = None if state == "completed" else {"code": "timeout.run", "message": "too long"}
    last = {"job_id": ID, "result": result if error is None else None, "partial": None, "error": error}
    said = [JobEvent(number + 1, "token", dump_json(text)) for number, text in enumerate(texts)]
    return [JobEvent(0, "started", b"{}"), *said, JobEvent(len(said) + 1, state, dump_json(last))]


def streamed(batches: list[list[JobEvent]], after: int = -1, first_id: int = 0) -> list[dict[str, Any]]:
    form = OpenAIResponse(record(first_id=first_id), "m", after=after)
    text = b"".join(piece for batch in batches for piece in form.stream(0, batch)).decode()
    found = []
    for event in filter(None, text.split("\n\n")):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_an_id_is_that_of_its_job() -> None:
    assert job_id_of(response_id(ID)) == ID and job_id_of("chatcmpl-1") == "chatcmpl-1"


@pytest.mark.parametrize("state", ["completed", "timed_out", "cancelled"])
def test_events_are_the_same_from_any_point(state: str) -> None:
    found = events(state, {"text": "one"}, {"value": {"content": " two"}})
    whole = streamed([found])
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert streamed([[event] for event in found]) == whole
    for after in range(len(whole)):
        assert streamed([found], after) == whole[after + 1 :]
    assert whole[-1]["type"] == {"completed": "response.completed", "timed_out": "response.failed"}.get(
        state, "response.cancelled"
    )
    assert whole[-1]["response"]["output"][0]["content"][0]["text"] == "one two"


@pytest.mark.parametrize("reason", ["tool_calls", "length"])
@pytest.mark.parametrize("text", ["", "I look"])
def test_an_item_has_the_same_place_in_the_events_as_in_the_response(text: str, reason: str) -> None:
    """An answer that only called a tool began an empty message in the place that the call had in the end."""
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a":' if reason == "length" else "{}"}}
    said = [{"text": text}] if text else []
    *log, last = events("completed", *said, {"value": {"tool_calls": [call]}})
    last = last._replace(data=dump_json(json.loads(last.data) | {"result": {"finish_reason": reason}}))
    whole = streamed([[*log, last]])
    output = whole[-1]["response"]["output"]
    assert [item["type"] for item in output] == (["message"] if text else []) + ["function_call"]
    for event in whole:
        if event["type"] == "response.output_item.done":
            assert event["item"] == output[event["output_index"]]
        elif "output_index" in event:
            assert output[event["output_index"]]["id"] in (event.get("item_id"), event.get("item", {}).get("id"))
    assert output[-1]["status"] == ("incomplete" if reason == "length" else "completed")


def test_a_failure_before_the_first_word_is_for_the_status_of_the_answer() -> None:
    form = OpenAIResponse(record(), "m")
    assert list(form.stream(0, events("failed"))) == []
    assert form.failure(0) == {"code": "timeout.run", "message": "too long"}


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_who_can_come_back_knows_the_id_before_the_first_word(state: str) -> None:
    form = OpenAIResponse(record("queued"), "m")
    pieces = form.begin()
    assert b"".join(pieces).count(b'"id":"%b"' % response_id(ID).encode()) == 2
    rest = list(form.stream(0, [JobEvent(0, "retrying", b"{}"), *events(state)]))
    assert form.failure(0) is None, "it is in the stream"
    told = [json.loads(event.split(b"data: ")[1]) for event in b"".join((*pieces, *rest)).split(b"\n\n")[:-1]]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == f"response.{state}"


@pytest.mark.parametrize("between", ["retrying", "restored"])
def test_who_comes_after_another_attempt_has_begun_is_told_that_one(between: str) -> None:
    """Each reader had an error, also those to whom nothing of the attempt before was told."""
    lost = [JobEvent(0, "started", b"{}"), JobEvent(1, "token", b'{"text":"lost"}'), JobEvent(2, between, b"{}")]
    log = [*lost, *(event._replace(id=event.id + 3) for event in events("completed", {"text": "kept"}))]
    whole = streamed([[event] for event in log], first_id=3)
    assert whole[-1]["response"]["output"][0]["content"][0]["text"] == "kept"
    assert [event["delta"] for event in whole if event["type"] == "response.output_text.delta"] == ["kept"]
    numbers = [event["sequence_number"] for event in whole]
    error = 5  # of those who came before it, and have events 2 to 4, which are void
    assert numbers[:2] == [0, 1] and numbers[2] > error and numbers[2:] == [*range(numbers[2], numbers[-1] + 1)]
    for after in numbers:
        assert streamed([log], after, first_id=3) == [event for event in whole if event["sequence_number"] > after]
    for after in (2, error):
        with pytest.raises(BegunAnew):
            streamed([log], after, first_id=3)
    with pytest.raises(BegunAnew):
        streamed([log])


def test_metadata_are_the_tags_that_identify_nobody() -> None:
    assert json.loads(b"".join(OpenAIResponse(record("queued"), "m").whole()))["metadata"] == {"a": "b"}


def test_what_is_long_is_spliced_into_each_event_and_not_parsed() -> None:
    """A text may have 64 MiB, and four events have it. What comes last is in pieces, and is sent in turns."""
    text, entry = 'ä"\n\\' * 1000, {"token": "ä", "logprob": -0.5}
    value = {"content": text, "logprobs": {"content": [entry]}, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    told = events("completed", {"text": text}, {"value": value})
    last = {event["type"]: event for event in streamed([told])}
    part = {"type": "output_text", "text": text * 2, "annotations": [], "logprobs": [entry]}
    assert last["response.output_text.delta"]["logprobs"] == [entry]
    assert last["response.output_text.done"]["text"] == text * 2
    assert last["response.content_part.done"]["part"] == part
    message, called = last["response.completed"]["response"]["output"]
    assert message["content"] == [part] and message["status"] == "completed"
    assert (called["call_id"], called["name"], called["arguments"]) == ("c", "f", "")
    form = OpenAIResponse(record(), "m")
    list(form.stream(0, told[:-1]))
    largest = [piece for piece in form.stream(0, told[-1:]) if len(piece) > len(text)]
    assert len(largest) == 4 and len({id(piece) for piece in largest}) == 1, "nothing of it was copied"
