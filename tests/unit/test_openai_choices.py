"""The choices of an answer, from the events of jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from killable.api.openai.chat_choices import (
    CALLS_CHARS_MAX,
    CALLS_MAX,
    DONE,
    OBJECT_BYTES_MAX,
    BegunAnew,
    Chunks,
    usage_of,
)
from killable.supervisor.models import JobEvent
from killable.workers.protocol.messages import dump_json


def chunks(number: int = 1, **more: bool) -> Chunks:
    return Chunks("chat", "chatcmpl-1", 5, "m", number, n=number, usage=more.get("usage", False))


def token(id: int, data: object) -> JobEvent:
    return JobEvent(id, "token", dump_json(data))


def end(state: str, result: object = None, error: object = None) -> JobEvent:
    return JobEvent(9, state, dump_json({"job_id": "job-1", "state": state, "result": result, "error": error}))


def parsed(lines: list[bytes]) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def test_a_text_is_spliced_as_it_is_and_nothing_it_says_ends_the_line() -> None:
    texts = ['"', "\\", "\n\n", "data: [DONE]", "\ud83d", "é\u2028"]
    lines = list(chunks().stream(0, [token(number, {"text": text}) for number, text in enumerate(texts)]))
    assert all(line.count(b"\n") == 2 and line.endswith(b"}\n\n") for line in lines)
    found = [line["choices"][0]["delta"].get("content") for line in parsed(lines)[1:]]  # type: ignore[index]
    assert found == texts


def test_another_attempt_after_the_first_piece_is_no_second_answer() -> None:
    form = chunks()
    again = JobEvent(1, "retrying", b"{}")
    assert list(form.stream(0, [again])) == []
    assert len(list(form.stream(0, [token(2, {"text": "a"})]))) == 2
    with pytest.raises(BegunAnew):
        list(form.stream(0, [again]))
    whole = chunks()
    whole.take(0, [token(0, {"text": "lost"}), again, token(2, {"text": "kept"})])
    assert json.loads(b"".join(whole.whole()))["choices"][0]["message"]["content"] == "kept"


def test_what_objects_have_is_joined_member_by_member() -> None:
    form = chunks()
    found = [{"token": "a"}, {"token": "é"}, {"token": "b"}]
    values: list[dict[str, Any]] = [
        {"content": "a", "reasoning_content": 'w"', "logprobs": {"content": found[:1], "refusal": None, "x": 5}},
        {"reasoning_content": "hy", "tool_calls": [{"index": 1, "id": "d", "function": {"arguments": "{"}}]},
        {"content": "é", "logprobs": {"content": [], "refusal": [1], "x": 6}},
        {"logprobs": {"content": found[1:]}, "tool_calls": [{"index": 1, "function": {"name": "f", "arguments": "}"}}]},
        {"logprobs": None, "tool_calls": [{"id": "c"}]},
    ]
    form.take(0, [token(number, {"value": value}) for number, value in enumerate(values)])
    form.take(0, [token(9, {"text": "\n"})])
    (choice,) = json.loads(b"".join(form.whole()))["choices"]
    assert choice["logprobs"] == {"content": found, "refusal": [1], "x": 5}
    assert choice["message"]["content"] == "aé\n" and choice["message"]["reasoning_content"] == 'w"hy'
    first, second = choice["message"]["tool_calls"]
    assert (first["id"], second["id"], second["function"]) == ("c", "d", {"name": "f", "arguments": "{}"})
    assert choice["finish_reason"] == "tool_calls"


def test_calls_of_tools_are_bounded_in_a_whole_answer() -> None:
    many = [{"tool_calls": [{"index": number} for number in range(CALLS_MAX + 1)]}]
    long = [{"tool_calls": [{"function": {"arguments": "x" * 200_000}}]}] * (CALLS_CHARS_MAX // 200_000 + 1)
    for values in (many, long):
        with pytest.raises(ValueError, match="too many calls"):
            chunks().take(0, [token(0, {"value": value}) for value in values])


@pytest.mark.parametrize(
    "data",
    [
        {"value": {"content": "x" * OBJECT_BYTES_MAX}},
        *({"value": 7}, {"value": ["a"]}, {"base64": "eA=="}),
        *({"value": {"logprobs": found}} for found in ("no", [1], {"content": 5})),
        *({"value": {"tool_calls": found}} for found in ("call", [1], [{"index": "0"}], [{"function": {"name": 3}}])),
    ],
)
def test_what_is_no_piece_of_an_answer_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        list(chunks().stream(0, [token(0, data)]))
    with pytest.raises(ValueError):
        chunks().take(0, [token(0, data)])


@pytest.mark.parametrize("result", [{"finish_reason": ["x"]}, {"usage": {"prompt_tokens": "many"}}, ["x"], "x"])
def test_a_result_that_tells_nothing_ends_an_answer_all_the_same(result: object) -> None:
    form = chunks(usage=True)
    last = list(form.stream(0, [token(0, {"text": "a"}), end("completed", result)]))[-1]
    assert b'"finish_reason":"stop"' in last
    assert json.loads(form.end().split(b"\n")[0].removeprefix(b"data: "))["usage"]["total_tokens"] == 1


def test_a_reason_that_openai_does_not_have_is_stop_and_usage_is_counted_once_for_a_prompt() -> None:
    form = chunks(2, usage=True)
    for number, reason in enumerate(("length", "eos")):
        usage = {"prompt_tokens": 4, "completion_tokens": 3 + number, "prompt_tokens_details": {"cached_tokens": 2}}
        lines = list(form.stream(number, [end("completed", {"finish_reason": reason, "usage": usage})]))
        assert [line["usage"] for line in parsed(lines)] == [None, None]
        assert parsed(lines)[-1]["choices"][0]["finish_reason"] == ("length", "stop")[number]  # type: ignore[index]
    last = form.end()
    assert last.endswith(DONE)
    told = json.loads(last.removesuffix(DONE).removeprefix(b"data: "))
    assert told["choices"] == [] and told["usage"] == usage_of(form.choices, 2)
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (4, 7)


def test_a_count_that_is_none_is_none() -> None:
    form = chunks()
    usage = {"prompt_tokens": "many", "completion_tokens": -1, "prompt_tokens_details": None}
    list(form.stream(0, [token(0, {"text": "a"}), end("completed", {"usage": usage})]))
    assert usage_of(form.choices, 1)["total_tokens"] == 0
    form = chunks()
    list(form.stream(0, [token(0, {"text": "a"}), end("completed", 5)]))
    assert usage_of(form.choices, 1)["completion_tokens"] == 1
