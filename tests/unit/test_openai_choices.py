"""The choices of an answer, from the events of jobs."""

from __future__ import annotations

import json

import pytest

from killable.api.openai.chat_choices import DONE, OBJECT_BYTES_MAX, BegunAnew, Chunks, usage_of
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
    assert json.loads(whole.whole())["choices"][0]["message"]["content"] == "kept"


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
