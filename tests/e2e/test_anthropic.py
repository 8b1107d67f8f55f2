"""The unmodified `anthropic` package against `killable serve`, over the job types that answer OpenAI's chats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import openai_jobs
from support.killable_command import Serve, open_gate
from support.late_import import LateImport
from support.waiting import until

anthropic = LateImport("anthropic")
JOBS = Path(openai_jobs.__file__).read_text()
PATH = "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "parrot", "max_tokens": 100}
NAN = float("nan")
ONE = {"type": "auto", "disable_parallel_tool_use": True}
WEATHER = {"name": "weather", "description": "Look outside", "input_schema": {"type": "object"}}


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def record_of(url: str, id: str) -> dict[str, Any]:
    record: dict[str, Any] = httpx.get(f"{url}/v1/jobs/job-{id.removeprefix('msg_')}").json()
    return record


def test_a_message_is_answered_whole(client: anthropic.Anthropic, url: str) -> None:
    answer = client.messages.create(model="parrot", max_tokens=2, messages=says("one two three"))
    assert [block.text for block in answer.content] == ["one two"] and answer.role == "assistant"
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("max_tokens", None, "parrot")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)
    assert record_of(url, answer.id)["type"] == "parrot"
    whole = client.messages.create(**ASKED, messages=says("one"), metadata={"user_id": "ann"})
    assert whole.stop_reason == "end_turn" and record_of(url, whole.id)["tags"] == {"user_id": "ann"}


def test_a_message_is_streamed(client: anthropic.Anthropic) -> None:
    text = 'say "[DONE]" \\ é\U0001f600 data:'
    with client.messages.stream(**ASKED, messages=says(text)) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.text for block in final.content] == [text] and final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (5, 5)
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_the_parts_of_a_conversation_are_messages_of_a_chat(client: anthropic.Anthropic, url: str) -> None:
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]}
    failed = {"type": "tool_result", "tool_use_id": "call_0", "content": "no net", "is_error": True}
    messages: list[Any] = [
        {"role": "user", "content": "the weather?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
        {
            "role": "user",
            "content": [failed, result, {"type": "text", "text": "and "}, {"type": "text", "text": "now?"}],
        },
    ]
    system: Any = [{"type": "text", "text": "be short", "cache_control": {"type": "ephemeral"}}]
    answer = client.messages.create(model="echo", max_tokens=9, messages=messages, system=system)
    assert answer.content[0].text == (
        'system: be short | user: the weather? | assistant: I look. weather({"city": "Paris"}) | tool: Error: no net'
        " | tool: rain | user: and now?"
    )


def test_calls_of_tools_are_blocks(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "caller", "max_tokens": 9, "messages": says("the weather?"), "tools": [WEATHER]}
    answer = client.messages.create(**asked)
    (block,) = answer.content
    assert (block.type, block.id, block.name, block.input) == ("tool_use", "call_1", "weather", {"city": "Paris"})
    assert answer.stop_reason == "tool_use"
    with client.messages.stream(**asked) as stream:
        assert stream.get_final_message().content == answer.content


def test_a_call_of_a_tool_that_was_cut_is_an_answer(client: anthropic.Anthropic) -> None:
    """It was an error, and all text before it lost."""
    asked: dict[str, Any] = {"model": "caller", "max_tokens": 1, "messages": says("the weather?"), "tools": [WEATHER]}
    answer = client.messages.create(**asked)
    assert (answer.stop_reason, answer.content[0].name, answer.content[0].input) == ("max_tokens", "weather", {})
    events = list(client.messages.create(**asked, stream=True))
    assert [each.delta.partial_json for each in events if each.type == "content_block_delta"] == ['{"city":']
    assert events[-2].delta.stop_reason == "max_tokens"


def test_the_sequence_at_which_it_has_stopped(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**ASKED, messages=says("one two"), stop_sequences=["two"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "two")


def test_a_stream_that_is_asked_for_again_has_the_latest_attempt_only(
    client: anthropic.Anthropic, url: str, gate: str
) -> None:
    asked: dict[str, Any] = {
        "model": "anew",
        "max_tokens": 100,
        "messages": says("x"),
        "stream": True,
        "extra_body": {"gate": gate},
        "extra_headers": {"Idempotency-Key": "anew"},
    }
    first = iter(client.messages.create(**asked))
    job_id = next(first).message.id.removeprefix("msg_")
    assert [next(first).type, next(first).delta.text] == ["content_block_start", "first"]
    with httpx.stream("GET", f"{url}/v1/jobs/job-{job_id}/stream", timeout=60):  # who reads it, too, keeps it alive
        open_gate(gate)
        with pytest.raises(anthropic.APIStatusError, match="worker_lost"):
            next(first)
        running = iter(client.messages.create(**asked))
        assert next(running).message.id.endswith(job_id)
        assert [next(running).type, next(running).delta.text] == ["content_block_start", "second"]
        open_gate(gate)
        assert [event.type for event in running] == ["content_block_stop", "message_delta", "message_stop"]
    ended = [event for event in client.messages.create(**asked) if event.type == "content_block_delta"]
    assert [event.delta.text for event in ended] == ["second"]


def test_closing_a_stream_ends_its_job(client: anthropic.Anthropic, url: str) -> None:
    stream = client.messages.create(**ASKED, messages=says("one two"), stream=True, extra_body={"then": "hang"})
    id = next(iter(stream)).message.id
    stream.close()
    record = until(lambda: (found := record_of(url, id))["ended_at"] and found, "its job has ended")
    assert record["certificate"]["by"] == "client_gone"


# ── what goes wrong ──


def asking(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": [block]}]}


def telling(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: is required"),
    ({"max_tokens": 0}, "max_tokens: must be from 1"),
    ({"messages": []}, "messages: must be a list"),
    ({"messages": [*HI, "hi"]}, "messages[1]: must be an object"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role: must be user or assistant"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type: must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: must be a string"),
    ({"system": 7}, "system: must be a string or a list of blocks"),
    ({"messages": [{"role": "user", "content": "x", "name": "x"}]}, "messages[0].name: is not supported"),
    (asking({"type": "tool_use", "id": "a", "name": "f", "by": 1}), "messages[0].content[0].by: is not supported"),
    (asking({"type": "tool_use", "id": {}, "name": "f"}), "messages[0].content[0].id: must be a string"),
    (asking({"type": "tool_use", "id": "a", "name": "f", "input": "x"}), "messages[0].content[0].input: must be an"),
    (telling({"type": "tool_result", "tool_use_id": "a", "by": 1}), "messages[0].content[0].by: is not supported"),
    (telling({"type": "tool_result"}), "messages[0].content[0].tool_use_id: must be a string"),
    (telling({"type": "tool_result", "tool_use_id": "a", "is_error": 1}), "messages[0].content[0].is_error: must be"),
    (asking({"type": "tool_use", "id": "a", "name": "f", "input": {"x": NAN}}), "messages[0].content[0].input: has a"),
    ({"model": "caller", "tools": [WEATHER], "tool_choice": ONE}, "tool_choice.disable_parallel_tool_use: is not"),
    ({"tool_choice": ONE | {"disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use: must be true"),
    ({"tools": [WEATHER | {"by": 1}]}, "tools[0].by: is not supported"),
    ({"tool_choice": {"type": "auto", "name": "f"}}, "tool_choice.name: is not supported"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name: must be a string"),
    ({"temperature": 1.5}, "temperature: must be from 0 to 1"),
    ({"stop_sequences": [7]}, "stop_sequences: must be"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking: is not supported"),
    ({"tools": [WEATHER]}, "tools: is not supported by this model"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type: must be custom"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type: must be auto, any, tool or none"),
    ({"n": 2}, "n: is not supported by this model"),
    ({"stop": ["x"]}, "stop: is not of this API"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=lambda value: next(iter(value), "") if value else "")
def test_each_wrong_field_is_named(url: str, changed: dict[str, Any], message: str) -> None:
    asked = json.dumps({**ASKED, "messages": HI} | changed)  # httpx writes no NaN, others do
    answer = httpx.post(url + PATH, content=asked, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.headers["x-should-retry"] == "false"
    body = answer.json()
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(message), body


def test_errors_are_those_of_the_package(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="nobody", max_tokens=9, messages=says("hi"))
    assert unknown.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.InternalServerError) as failed:
        client.messages.create(**ASKED, messages=[{"role": "user", "content": ""}], extra_body={"then": "raise"})
    assert failed.value.body["error"] | {"message": ""} == {"type": "api_error", "code": "exception", "message": ""}
    with (
        client.messages.stream(**ASKED, messages=says("one"), extra_body={"then": "exit"}) as stream,
        pytest.raises(anthropic.APIStatusError) as cut,
    ):
        stream.until_done()
    assert cut.value.body["type"] == "error" and cut.value.body["error"]["code"] == "exit"


@pytest.mark.parametrize(
    ("parameter", "told"), [("messages.1.content", "messages: "), ("stop.0", "stop_sequences: "), ("", "these words")]
)
def test_a_job_that_refuses_names_the_field_of_its_request(url: str, parameter: str, told: str) -> None:
    """The system prompt is a message for the job: what it numbers is not what was sent."""
    asked = {**ASKED, "system": "Say it.", "messages": HI, "then": "refuse", "refused": parameter}
    answer = httpx.post(url + PATH, json=asked)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(told), answer.text
    streamed = httpx.post(url + PATH, json=asked | {"stream": True}).text
    error = json.loads(streamed.rstrip().rpartition("data: ")[2])["error"]
    assert error["message"].startswith(told), streamed


def test_keys_are_those_of_the_server(folder: Path, serve: Serve) -> None:
    (folder / "my_jobs.py").write_text(JOBS)
    (folder / "keys").write_text(f"writer submit {'w' * 32}\nreader read {'r' * 32}\n")
    (folder / "keys").chmod(0o600)
    (folder / "killable.toml").write_text('[server]\napi_keys_file = "keys"\n')
    url = serve("my_jobs.py", "--port", "0").url

    def ask(key: str) -> Any:
        with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
            return client.messages.create(**ASKED, messages=says("one"))

    assert ask("w" * 32).content[0].text == "one"
    with pytest.raises(anthropic.PermissionDeniedError) as forbidden:
        ask("r" * 32)
    assert forbidden.value.body["error"]["type"] == "permission_error"
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        ask("nobody's")
    assert unknown.value.body["error"]["type"] == "authentication_error"
