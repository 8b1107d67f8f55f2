"""The unmodified `openai` package against `killable serve`, over job types of a user's own."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import openai_jobs
from support.killable_command import open_gate
from support.late_import import LateImport
from support.waiting import until

from killable.supervisor.settings import usable_cores

openai = LateImport("openai")
JOBS = Path(openai_jobs.__file__).read_text()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with httpx.Client(verify=False, trust_env=False) as http:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120, http_client=http)


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def job_of(url: str, id: str) -> dict[str, Any]:
    """Return the record of the job behind an answer."""
    job_id = id.removeprefix("chatcmpl-").removeprefix("resp_")
    record: dict[str, Any] = httpx.get(f"{url}/v1/jobs/job-{job_id}").json()
    return record


def active(url: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = httpx.get(f"{url}/v1/jobs", params={"state": "active"}).json()["jobs"]
    return jobs


# ── models ──


def test_models_are_listed_with_what_they_answer(client: openai.OpenAI) -> None:
    found = {model.id: model.kinds for model in client.models.list()}  # type: ignore[attr-defined]
    assert found["parrot"] == ["chat", "completions", "detokenize", "tokenize"]
    assert found["lengths"] == ["embeddings"] and "plain" not in found
    assert client.models.retrieve("parrot").owned_by == "killable"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no/such")
    assert refused.value.code == "model_not_found"


# ── chat ──


def test_a_chat_is_answered_whole(client: openai.OpenAI, url: str) -> None:
    answer = client.chat.completions.create(model="parrot", messages=says("one two three"), max_completion_tokens=2)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content == "one two"
    assert choice.finish_reason == "length" and answer.object == "chat.completion" and answer.model == "parrot"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    record = job_of(url, answer.id)
    assert record["type"] == "parrot" and record["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
    }
    unusual = client.chat.completions.create(model="parrot", messages=says("one"))
    assert unusual.choices[0].finish_reason == "stop"  # the job has given a reason that OpenAI does not have


def test_a_chat_is_streamed_and_its_usage_comes_last(client: openai.OpenAI) -> None:
    text = 'say "[DONE]" \\ é\U0001f600 data:'
    asked: dict[str, Any] = {"model": "parrot", "messages": says(text), "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    *told, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == text
    assert told[0].choices[0].delta.role == "assistant" and told[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in told) and {chunk.id for chunk in chunks} == {last.id}
    assert last.choices == [] and last.usage is not None and last.usage.prompt_tokens == 5
    without = list(client.chat.completions.create(**asked))
    assert all(chunk.choices for chunk in without) and len(without) == len(told)


def test_several_answers_are_several_jobs_with_seeds_of_their_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "parrot", "messages": says("a b"), "n": 3, "seed": 7}
    answer = client.chat.completions.create(**asked)
    assert [choice.message.content for choice in answer.choices] == ["a#7 b#7", "a#8 b#8", "a#9 b#9"]
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_calls_of_tools_and_log_probabilities_are_passed_on(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    asked: dict[str, Any] = {"model": "caller", "messages": says("the weather?")}
    choice = client.chat.completions.create(**asked, tools=tools).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "weather", '{"city": "Paris"}')  # type: ignore[union-attr]
    pieces = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, tools=tools, stream=True)]
    assert len([piece for piece in pieces if piece.delta.tool_calls]) == 3
    assert pieces[-1].finish_reason == "tool_calls"
    told = client.chat.completions.create(**asked, logprobs=True).choices[0]
    assert told.message.content == "yes" and told.logprobs is not None and told.logprobs.content is not None
    assert [entry.logprob for entry in told.logprobs.content] == [-0.5]


def test_a_message_that_only_calls_a_tool_has_a_text(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: Any = [*says("one"), {"role": "assistant", "tool_calls": [call]}]
    answer = client.chat.completions.create(model="echo", messages=messages)
    assert answer.choices[0].message.content == "user: one | assistant:  f({})"


# ── completions, embeddings, tokens ──


def test_each_prompt_of_completions_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="parrot", prompt=["abc", "xyz"], max_tokens=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "cb"), (1, "zy")]
    assert answer.usage is not None and answer.usage.completion_tokens == 4  # it counts nothing: each piece is one
    stream = client.completions.create(model="parrot", prompt="abc", stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "abccba"


def test_embeddings_as_numbers_and_as_base64(client: openai.OpenAI, url: str) -> None:
    asked: dict[str, Any] = {"model": "lengths", "input": ["a", "abcd"]}
    packed = client.embeddings.create(**asked)  # the package asks for base64 and unpacks it
    plain = client.embeddings.create(**asked, encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data] == [[1, 0.5], [4, 0.5]]
    assert [each.index for each in plain.data] == [0, 1] and plain.usage.prompt_tokens == 2
    raw = httpx.post(f"{url}/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
    assert raw["data"][0]["embedding"] == base64.b64encode(struct.pack("<2f", 1, 0.5)).decode()


@pytest.mark.parametrize("body", [{"content": "hé"}, {"model": "parrot", "prompt": "hé"}])
def test_tokens_as_llama_cpp_and_vllm_have_them(url: str, body: dict[str, str]) -> None:
    found = httpx.post(f"{url}/tokenize", json=body).json()
    assert found == {"tokens": [104, 233], "count": 2, "max_model_len": None}
    back = httpx.post(f"{url}/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"content": "hé", "prompt": "hé"}


# ── who leaves ──


def test_closing_a_stream_ends_its_job_and_what_it_used_is_known(client: openai.OpenAI, url: str) -> None:
    stream = client.chat.completions.create(
        model="parrot", messages=says("one two"), stream=True, extra_body={"then": "hang"}
    )
    chunks = iter(stream)
    id = next(chunks).id
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["one", " two"]
    stream.close()
    record = until(lambda: (found := job_of(url, id))["ended_at"] and found, "its job has ended")
    assert record["state"] == "cancelled" and record["certificate"]["by"] == "client_gone"
    assert record["certificate"]["last_signal"] == "SIGKILL" and record["certificate"]["tree_empty"] >= 0
    assert record["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}


def test_leaving_before_a_whole_answer_ends_its_job(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model="parrot", messages=says("one"), timeout=1, metadata={"who": "left"}, extra_body={"then": "hang"}
        )

    def ended() -> Any:
        (record,) = httpx.get(f"{url}/v1/jobs", params={"tag": "who:left"}).json()["jobs"]
        return record["ended_at"] and record

    assert until(ended, "its job has ended")["state"] == "cancelled"


def test_one_of_several_answers_that_fails_is_told_at_once_and_ends_the_others(client: openai.OpenAI, url: str) -> None:
    def jobs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{url}/v1/jobs", params={"tag": "who:both"}).json()["jobs"]
        return found

    with ThreadPoolExecutor(1) as thread:
        asked: dict[str, Any] = {"n": 2, "metadata": {"who": "both"}, "extra_body": {"then": "hang"}, "timeout": 30}
        answer = thread.submit(client.chat.completions.create, model="parrot", messages=says("a"), **asked)
        last, first = until(lambda: len(found := jobs()) == 2 and found, "both jobs are submitted")
        httpx.delete(f"{url}/v1/jobs/{last['job_id']}")
        with pytest.raises(openai.ConflictError):
            answer.result()
    until(lambda: all(job["ended_at"] for job in jobs()), "the other one has ended, too")
    assert job_of(url, first["job_id"].removeprefix("job-"))["certificate"]["by"] == "client_gone"


def test_a_request_that_left_the_queue_never_starts(client: openai.OpenAI, url: str) -> None:
    asked: dict[str, Any] = {"model": "parrot", "messages": says("busy"), "stream": True}
    busy = [client.chat.completions.create(**asked, extra_body={"then": "hang"}) for _ in range(usable_cores())]
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="parrot", messages=says("late"), timeout=0.5, user="late")

    def ended() -> Any:
        (record,) = httpx.get(f"{url}/v1/jobs", params={"tag": "user:late"}).json()["jobs"]
        return record["ended_at"] and record

    # Only then are the workers free: of two connections that are closed the server may hear in either order.
    until(ended, "it has left the queue")
    with client.responses.create(model="parrot", input="later", background=True, stream=True) as begun:
        first: Any = next(iter(begun))  # while it waits: who loses this connection can come back
    assert first.type == "response.created" and client.responses.retrieve(first.response.id).status == "queued"
    for stream in busy:
        stream.close()
    client.chat.completions.create(model="parrot", messages=says("next"))
    record = ended()
    assert record["state"] == "cancelled" and record["started_at"] is None and record["pid"] is None
    events = list(client.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number))
    assert events[0].sequence_number == 1 and events[-1].type == "response.completed"


def test_several_requests_at_once_do_not_cut_each_other(client: openai.OpenAI, url: str, gate: str) -> None:
    first = client.chat.completions.create(model="parrot", messages=says("one"), stream=True, extra_body={"gate": gate})
    chunks = iter(first)
    next(chunks), next(chunks)
    second = client.chat.completions.create(model="parrot", messages=says("two"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in second) == "two"
    open_gate(gate)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == ["stop"]
    assert active(url) == []


# ── responses ──


def test_a_response_whole_and_streamed(client: openai.OpenAI, url: str) -> None:
    whole = client.responses.create(model="parrot", instructions="Repeat.", input="one two", temperature=0.5)
    assert whole.status == "completed" and whole.output_text == "one two" and whole.temperature == 0.5
    assert whole.usage is not None and (whole.usage.input_tokens, whole.usage.output_tokens) == (2, 2)
    assert client.responses.retrieve(whole.id).output_text == "one two"
    with client.responses.stream(model="parrot", input="one two") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "one two" and [event.sequence_number for event in events][-1] == len(events) - 1
    cut = client.responses.create(model="parrot", input="one two three", max_output_tokens=1)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens" and cut.output_text == "one"


def test_a_response_in_the_background_is_read_from_any_point(client: openai.OpenAI, url: str, gate: str) -> None:
    begun = client.responses.create(
        model="parrot", input="one two three", background=True, extra_body={"gate": gate}, metadata={"of": "test"}
    )
    assert begun.status in ("queued", "in_progress") and begun.output_text == "" and begun.metadata == {"of": "test"}
    running = until(
        lambda: (found := client.responses.retrieve(begun.id)).output_text == "one two three" and found, "it speaks"
    )
    assert running.status == "in_progress"
    seen = []
    with client.responses.retrieve(begun.id, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break  # leaving does not end it
    open_gate(gate)
    with client.responses.retrieve(begun.id, stream=True, starting_after=seen[-1].sequence_number) as rest:
        seen += list(rest)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "one two three"
    assert seen[-1].type == "response.completed"
    done = client.responses.retrieve(begun.id)
    assert done.status == "completed" and done.output_text == "one two three"
    with client.responses.retrieve(begun.id, stream=True, starting_after=seen[-1].sequence_number) as after:
        assert list(after) == []


def test_a_response_is_cancelled_when_its_processes_are_gone(client: openai.OpenAI, url: str) -> None:
    begun = client.responses.create(model="parrot", input="one", background=True, extra_body={"then": "hang"})
    until(lambda: client.responses.retrieve(begun.id).output_text == "one", "it speaks")
    cancelled = client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled" and cancelled.output_text == "one"
    assert cancelled.usage is not None and cancelled.usage.total_tokens == 2
    record = job_of(url, begun.id)
    assert record["state"] == "cancelled" and record["certificate"]["tree_empty"] >= 0
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"


def test_calls_of_tools_in_a_response(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    answer = client.responses.create(model="caller", input="the weather?", tools=tools)
    (call,) = answer.output
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city": "Paris"}')  # type: ignore[union-attr]


def test_a_response_is_the_input_of_the_next_as_its_parts_are(client: openai.OpenAI) -> None:
    """As agents send it: the items that came, and the result of the tool as a text or in parts."""
    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    asked = client.responses.create(model="caller", input="the weather?", tools=tools)
    said = client.responses.create(model="parrot", input="I look.")
    parts = [{"type": "input_text", "text": "rain, "}, {"type": "input_text", "text": "wind"}]
    for output in ("rain, wind", parts):
        result = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": output}  # type: ignore[union-attr]
        items: Any = [{"role": "user", "content": "the weather?"}, *said.output, *asked.output, result]
        answer = client.responses.create(model="echo", instructions="be short", input=items)
        assert answer.output_text == (
            'system: be short | user: the weather? | assistant: I look. | assistant:  weather({"city": "Paris"})'
            " | tool: rain, wind"
        )


# ── attempts ──


def test_another_attempt_before_the_first_word_is_not_seen(client: openai.OpenAI) -> None:
    for stream in (False, True):
        answer: Any = client.chat.completions.create(model="again", messages=says("x"), stream=stream)
        text = (
            "".join(c.choices[0].delta.content or "" for c in answer) if stream else answer.choices[0].message.content
        )
        assert text == "second"


def test_a_process_that_is_lost_after_the_first_word_is_an_error_in_the_stream(client: openai.OpenAI) -> None:
    said = []
    with pytest.raises(openai.APIError) as failed:
        for chunk in client.chat.completions.create(
            model="again", messages=says("x"), stream=True, extra_body={"late": True}
        ):
            said.append(chunk.choices[0].delta.content)
    assert said == ["", "first"] and failed.value.code == "killed_externally"


def test_a_stream_that_is_asked_for_again_has_the_latest_attempt_only(
    client: openai.OpenAI, url: str, gate: str
) -> None:
    asked: dict[str, Any] = {
        "model": "anew",
        "messages": says("x"),
        "stream": True,
        "extra_body": {"gate": gate},
        "extra_headers": {"Idempotency-Key": "anew"},
    }
    first = iter(client.chat.completions.create(**asked))
    job_id = next(first).id.removeprefix("chatcmpl-")
    assert next(first).choices[0].delta.content == "first"
    with httpx.stream("GET", f"{url}/v1/jobs/job-{job_id}/stream", timeout=60):  # who reads it, too, keeps it alive
        open_gate(gate)
        with pytest.raises(openai.APIError) as failed:
            next(first)
        assert failed.value.code == "worker_lost"
        running = iter(client.chat.completions.create(**asked))
        assert next(running).id.endswith(job_id) and next(running).choices[0].delta.content == "second"
        open_gate(gate)
        assert [chunk.choices[0].finish_reason for chunk in running] == ["stop"]
    ended = client.chat.completions.create(**asked)
    assert [chunk.choices[0].delta.content for chunk in ended] == ["", "second", None]


def test_a_response_that_is_streamed_again_has_the_latest_attempt_only(client: openai.OpenAI, gate: str) -> None:
    asked: dict[str, Any] = {
        "model": "anew",
        "input": "x",
        "stream": True,
        "background": True,
        "extra_body": {"gate": gate},
        "extra_headers": {"Idempotency-Key": "anew-response"},
    }

    def texts(stream: Any) -> list[str]:
        return [event.delta for event in stream if event.type == "response.output_text.delta"]

    first = client.responses.create(**asked)
    until(lambda: next(iter(first)).type == "response.output_text.delta", "it speaks")
    open_gate(gate)
    assert [event.code for event in first] == ["worker_lost"]
    open_gate(gate)
    assert texts(client.responses.create(**asked)) == ["second"]
    assert texts(client.responses.create(**asked)) == ["second"]
