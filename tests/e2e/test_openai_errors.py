"""What goes wrong over OpenAI's routes: the error's shape, its `param`, its status, and who tries again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from support import openai_jobs
from support.killable_command import Serve
from support.late_import import LateImport
from support.waiting import until

from killable.supervisor.settings import usable_cores

openai = LateImport("openai")
JOBS = Path(openai_jobs.__file__).read_text()
CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
)
HI = [{"role": "user", "content": "hi"}]
PARROT: dict[str, Any] = {"model": "parrot", "messages": HI}
COMPLETE: dict[str, Any] = {"model": "parrot", "prompt": "hi"}
RESPOND: dict[str, Any] = {"model": "parrot", "input": "hi"}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, verify=False, trust_env=False, timeout=120) as client:
        yield client


def error_of(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """Check that an answer is an error as OpenAI has them, and return it."""
    assert answer.status_code == status and answer.headers["content-type"] == "application/json", answer.text
    assert answer.headers["x-should-retry"] in ("true", "false") and list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param) and error["message"] and error["type"], error
    assert "Traceback" not in answer.text
    return error


# ── each wrong field its param ──

TYPE, VALUE, MISSING, UNSUPPORTED = (
    *("invalid_type", "invalid_value", "missing_required_parameter", "unsupported_parameter"),
)
CALL, CALLED = (
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    "messages[0].tool_calls[0]",
)
TOOL = {"type": "function", "function": {"name": "f"}}
PART = {"type": "text", "text": "hi"}
RESPONDED = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"messages": HI}, MISSING, "model"),
    (CHAT, {**PARROT, "model": 7}, TYPE, "model"),
    (CHAT, {"model": "parrot"}, MISSING, "messages"),
    (CHAT, {**PARROT, "messages": "hi"}, TYPE, "messages"),
    (CHAT, {**PARROT, "messages": []}, VALUE, "messages"),
    (CHAT, {**PARROT, "messages": [*HI, "hi"]}, TYPE, "messages[1]"),
    (CHAT, {**PARROT, "messages": [{"content": "hi"}]}, MISSING, "messages[0].role"),
    (CHAT, {**PARROT, "messages": [{"role": "king", "content": "hi"}]}, VALUE, "messages[0].role"),
    (CHAT, {**PARROT, "messages": [{"role": "user"}]}, MISSING, "messages[0].content"),
    (CHAT, {**PARROT, "messages": [{"role": "user", "content": 7}]}, TYPE, "messages[0].content"),
    (CHAT, {**PARROT, "messages": [{"role": "user", "content": "hi", "mood": 1}]}, UNSUPPORTED, "messages[0].mood"),
    (
        CHAT,
        {**PARROT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        UNSUPPORTED,
        "messages[0].content[0].type",
    ),
    *(
        (CHAT, {**PARROT, "messages": [{"role": "assistant", "tool_calls": [CALL | more]}]}, code, f"{CALLED}.{at}")
        for more, code, at in (
            ({"type": None}, VALUE, "type"),
            ({"id": 5}, TYPE, "id"),
            ({"function": None}, TYPE, "function"),
            ({"function": {"name": "f"}}, TYPE, "function.arguments"),
        )
    ),
    (CHAT, {**PARROT, "temperature": 2.1}, VALUE, "temperature"),
    (CHAT, {**PARROT, "temperature": "hot"}, TYPE, "temperature"),
    (CHAT, {**PARROT, "temperature": True}, TYPE, "temperature"),
    (CHAT, {**PARROT, "max_tokens": 0}, VALUE, "max_tokens"),
    (CHAT, {**PARROT, "messages": [{**HI[0], "name": 5}]}, TYPE, "messages[0].name"),
    (CHAT, {**PARROT, "messages": [{"role": "tool", "content": "x"}]}, MISSING, "messages[0].tool_call_id"),
    (CHAT, {**PARROT, "model": "caller", "tools": [{"type": "function"}]}, VALUE, "tools"),
    (CHAT, {**PARROT, "max_completion_tokens": 1.5}, TYPE, "max_completion_tokens"),
    (CHAT, {**PARROT, "max_completion_tokens": 3, "max_tokens": 4}, VALUE, "max_tokens"),
    (CHAT, {**PARROT, "n": 0}, VALUE, "n"),
    (CHAT, {**PARROT, "n": 17}, VALUE, "n"),
    (CHAT, {**PARROT, "stream": "yes"}, TYPE, "stream"),
    (CHAT, {**PARROT, "stream_options": {"include_usage": True}}, VALUE, "stream_options"),
    (CHAT, {**PARROT, "stream": True, "stream_options": {"verbose": True}}, UNSUPPORTED, "stream_options.verbose"),
    (CHAT, {**PARROT, "min_p": 5}, VALUE, "min_p"),
    (CHAT, {**PARROT, "min_p": 0.5}, UNSUPPORTED, "min_p"),
    (CHAT, {**PARROT, "top_k": -2}, VALUE, "top_k"),
    (CHAT, {**PARROT, "repeat_penalty": 0}, VALUE, "repeat_penalty"),
    (CHAT, {**PARROT, "seed": 2**63 - 1, "n": 2}, VALUE, "seed"),
    (CHAT, {**PARROT, "stop": 5}, TYPE, "stop"),
    (CHAT, {**PARROT, "stop": [""]}, VALUE, "stop"),
    (CHAT, {**PARROT, "stop": ["x"] * 17}, VALUE, "stop"),
    (CHAT, {**PARROT, "seed": "x"}, TYPE, "seed"),
    (CHAT, {**PARROT, "top_p": 0.5}, UNSUPPORTED, "top_p"),
    (CHAT, {**PARROT, "logprobs": True}, UNSUPPORTED, "logprobs"),
    (CHAT, {**PARROT, "presence_penalty": 1}, UNSUPPORTED, "presence_penalty"),
    (CHAT, {**PARROT, "logit_bias": {"5": 1}}, UNSUPPORTED, "logit_bias"),
    (CHAT, {**PARROT, "logit_bias": {"1" * 5000: 1}}, VALUE, "logit_bias"),
    (CHAT, {**PARROT, "response_format": {"type": "json_object"}}, UNSUPPORTED, "response_format"),
    (CHAT, {**PARROT, "response_format": {"type": "xml"}}, VALUE, "response_format"),
    (CHAT, {**PARROT, "response_format": {"type": "json_schema"}}, VALUE, "response_format"),
    (CHAT, {**PARROT, "tools": [{"type": "function", "function": {"name": "f"}}]}, UNSUPPORTED, "tools"),
    (CHAT, {**PARROT, "functions": [{"name": "f"}]}, UNSUPPORTED, "functions"),
    (CHAT, {**PARROT, "store": True}, UNSUPPORTED, "store"),
    (CHAT, {**PARROT, "audio": {}}, UNSUPPORTED, "audio"),
    (CHAT, {**PARROT, "tmeperature": 1}, UNSUPPORTED, "tmeperature"),
    (CHAT, {**PARROT, "metadata": 1}, TYPE, "metadata"),
    (CHAT, {**PARROT, "metadata": {"a b": "c"}}, VALUE, "metadata.a b"),
    (CHAT, {**PARROT, "user": 1}, TYPE, "user"),
    (CHAT, {**PARROT, "then": "sing"}, VALUE, "then"),
    (CHAT, {**PARROT, "limits": {"run_s": -1}}, VALUE, "limits.run_s"),
    (CHAT, {**PARROT, "limits": {"run": 1}}, VALUE, "limits.run"),
    (CHAT, {**PARROT, "priority": "high"}, VALUE, "priority"),
    (CHAT, {**PARROT, "model": "caller", "tool_choice": "required"}, UNSUPPORTED, "tool_choice"),
    (
        CHAT,
        {**PARROT, "model": "caller", "tools": [TOOL], "tool_choice": "none"},
        UNSUPPORTED,
        "tool_choice",
    ),
    (
        CHAT,
        {**PARROT, "model": "caller", "tools": [TOOL], "parallel_tool_calls": False},
        UNSUPPORTED,
        "parallel_tool_calls",
    ),
    (
        CHAT,
        {**PARROT, "messages": [{"role": "user", "content": [{**PART, "mood": 1}]}]},
        UNSUPPORTED,
        "messages[0].content[0].mood",
    ),
    (
        CHAT,
        {**PARROT, "messages": [{"role": "user", "content": [{"type": "refusal"}]}]},
        TYPE,
        "messages[0].content[0].refusal",
    ),
    (COMPLETIONS, {"model": "parrot"}, MISSING, "prompt"),
    (COMPLETIONS, {**COMPLETE, "prompt": [1, 2]}, TYPE, "prompt"),
    (COMPLETIONS, {**COMPLETE, "prompt": ["x"] * 17}, VALUE, "n"),
    (COMPLETIONS, {**COMPLETE, "suffix": "x"}, UNSUPPORTED, "suffix"),
    (COMPLETIONS, {**COMPLETE, "best_of": 2}, UNSUPPORTED, "best_of"),
    (EMBEDDINGS, {"model": "lengths"}, MISSING, "input"),
    (EMBEDDINGS, {"model": "lengths", "input": []}, TYPE, "input"),
    (EMBEDDINGS, {"model": "lengths", "input": [1, 2]}, TYPE, "input"),
    (EMBEDDINGS, {"model": "lengths", "input": "x", "dimensions": 2}, UNSUPPORTED, "dimensions"),
    (EMBEDDINGS, {"model": "lengths", "input": "x", "encoding_format": "hex"}, VALUE, "encoding_format"),
    (RESPONSES, {"model": "parrot"}, MISSING, "input"),
    (RESPONSES, {**RESPOND, "input": 5}, TYPE, "input"),
    (RESPONSES, {**RESPOND, "input": [{"type": "reasoning"}]}, UNSUPPORTED, "input[0].type"),
    (RESPONSES, {**RESPOND, "input": [{"role": "user"}]}, MISSING, "input[0].content"),
    (RESPONSES, {**RESPOND, "input": [{**HI[0], "mood": 1}]}, UNSUPPORTED, "input[0].mood"),
    *(
        (RESPONSES, {**RESPOND, "input": [{**RESPONDED, **more}]}, code, f"input[0].{at}")
        for more, code, at in (
            ({"name": None}, TYPE, "name"),
            ({"arguments": {}}, TYPE, "arguments"),
            ({"namespace": "x"}, UNSUPPORTED, "namespace"),
        )
    ),
    (RESPONSES, {**RESPOND, "input": [{"type": "function_call_output", "output": "x"}]}, TYPE, "input[0].call_id"),
    (
        RESPONSES,
        {**RESPOND, "input": [{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image"}]}]},
        UNSUPPORTED,
        "input[0].output[0].type",
    ),
    (
        RESPONSES,
        {**RESPOND, "instructions": "x", "input": [*HI, {"role": "king", "content": "hi"}]},
        VALUE,
        "input[1].role",
    ),
    (RESPONSES, {**RESPOND, "include": ["message.output_text.logprobs"]}, UNSUPPORTED, "include"),
    (RESPONSES, {**RESPOND, "instructions": 5}, TYPE, "instructions"),
    (RESPONSES, {**RESPOND, "previous_response_id": "resp_1"}, UNSUPPORTED, "previous_response_id"),
    (RESPONSES, {**RESPOND, "store": False}, UNSUPPORTED, "store"),
    (RESPONSES, {**RESPOND, "max_output_tokens": 0}, VALUE, "max_output_tokens"),
    (RESPONSES, {**RESPOND, "reasoning": {"effort": "high"}}, UNSUPPORTED, "reasoning"),
    (RESPONSES, {**RESPOND, "truncation": "auto"}, UNSUPPORTED, "truncation"),
    (RESPONSES, {**RESPOND, "tools": [{"type": "web_search"}]}, UNSUPPORTED, "tools[0].type"),
    (
        RESPONSES,
        {**RESPOND, "model": "caller", "tools": [{"type": "function", "name": "f", "mood": 1}]},
        UNSUPPORTED,
        "tools[0].mood",
    ),
    (RESPONSES, {**RESPOND, "include": ["reasoning.encrypted_content"]}, UNSUPPORTED, "include[0]"),
    (RESPONSES, {**RESPOND, "text": {"format": {"type": "xml"}}}, VALUE, "text.format"),
    (RESPONSES, {**RESPOND, "text": {"format": {"type": "json_object"}}}, UNSUPPORTED, "text.format"),
    (RESPONSES, {**RESPOND, "presence_penalty": 3}, VALUE, "presence_penalty"),
    (RESPONSES, {**RESPOND, "n": 2}, UNSUPPORTED, "n"),
    (RESPONSES, {**RESPOND, "messages": HI}, UNSUPPORTED, "messages"),
    (RESPONSES, {**RESPOND, "max_tokens": 2}, UNSUPPORTED, "max_tokens"),
    ("/tokenize", {}, MISSING, "content"),
    ("/tokenize", {"content": 5}, TYPE, "content"),
    ("/tokenize", {"content": "a", "prompt": "b"}, VALUE, "prompt"),
    ("/detokenize", {"tokens": "x"}, TYPE, "tokens"),
    ("/detokenize", {"tokens": ["x"]}, VALUE, "tokens[0]"),
]


def test_each_wrong_field_is_named_and_nothing_is_started(http: httpx.Client) -> None:
    for path, body, code, param in WRONG:
        answer = http.post(path, json=body)
        assert answer.status_code == 400, (path, body, answer.text)
        error = error_of(answer, 400, code, param)
        assert error["type"] == "invalid_request_error" and answer.headers["x-should-retry"] == "false"
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_a_large_request_is_read_as_a_small_one(http: httpx.Client) -> None:
    long = "word " * 8000
    whole = http.post(CHAT, json={"model": "parrot", "messages": [{"role": "user", "content": long}], "max_tokens": 2})
    assert whole.json()["choices"][0]["message"]["content"] == "word word"
    for path, body, code, param in WRONG[2:30:9]:
        padded = {**body, "metadata": {"pad": "x"}, "messages": body.get("messages"), "padding": None, "pad": None}
        answer = http.post(
            path, content=json.dumps(padded) + " " * (20 << 10), headers={"content-type": "application/json"}
        )
        error_of(answer, 400, code, param)
    error_of(
        http.post(CHAT, json={"model": "none", "messages": [{"role": "user", "content": long}]}),
        404,
        "model_not_found",
        "model",
    )


@pytest.mark.parametrize("description", ["short", "long " * 50_000])
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_repeats_what_was_asked(http: httpx.Client, stream: bool, description: str) -> None:
    """Also what the model does not take, since it asks for nothing; and tools that are too large for the event loop."""
    asked: dict[str, Any] = {
        "instructions": "Say it.",
        "max_output_tokens": 9,
        "parallel_tool_calls": True,
        "temperature": 1,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tools": [{"type": "function", "name": "f", "description": description, "strict": None}],
        "tool_choice": "auto",
        "top_p": 1.0,
    }
    answer = http.post(RESPONSES, json={"model": "caller", "input": "hi", "stream": stream, **asked})
    told = [answer.json()] if not stream else [
        json.loads(line.removeprefix("data: "))["response"]
        for line in answer.text.splitlines() if line.startswith("data: ") and '"response":{' in line
    ]  # fmt: skip
    assert len(told) == (3 if stream else 1)
    for response in told:
        assert {name: response[name] for name in asked} == asked and response["background"] is False
    rest = {"tool_choice": "none", "parallel_tool_calls": False, "background": True}
    job = http.post(RESPONSES, json={**RESPOND, **rest}).json()
    assert {name: job[name] for name in rest} == rest and job["tools"] == []
    later = http.get(f"{RESPONSES}/{told[-1]['id']}").json()
    assert [later[name] for name in asked] == [None] * len(asked), "it is not kept, and nothing else is claimed"


@pytest.mark.parametrize("padding", ["", " " * (20 << 10)])
def test_a_body_that_is_no_object(http: httpx.Client, padding: str) -> None:
    json_type = {"content-type": "application/json"}
    for content, code in (("{", "malformed"), ("[1]", TYPE), ("\ud800".encode("utf-16", "surrogatepass"), "malformed")):
        body = content + padding.encode() if isinstance(content, bytes) else content + padding
        error_of(http.post(CHAT, content=body, headers=json_type), 400, code)
    tools = '{"model": "caller", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"a": NaN}}]}'
    error_of(http.post(RESPONSES, content=tools + padding, headers=json_type), 400, VALUE, "tools")
    for number in ("NaN", "-Infinity", "1e400"):
        body = json.dumps({**PARROT, "model": "caller", "tools": [{**TOOL, "with": "a number"}]})
        chat = body.replace('"a number"', number)
        error_of(http.post(CHAT, content=chat + padding, headers=json_type), 400, VALUE, "tools")
    error_of(http.post(CHAT, content="x", headers={"content-type": "text/plain"}), 415, "unsupported_media_type")


def test_values_that_ask_for_nothing_are_taken(http: httpx.Client) -> None:
    neutral = {"top_p": 1, "presence_penalty": 0, "logit_bias": {}, "logprobs": False, "n": 1, "store": False}
    more = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "service_tier": "auto"}
    rest = {"user": "someone", "top_logprobs": None, "stream_options": None, "parallel_tool_calls": True}
    answer = http.post(CHAT, json=PARROT | neutral | more | rest)
    assert answer.status_code == 200, answer.text
    job = http.get(f"/v1/jobs/job-{answer.json()['id'].removeprefix('chatcmpl-')}").json()
    assert job["tags"] == {"user": "someone"}


def test_addresses_and_models_that_are_not_there(http: httpx.Client) -> None:
    error_of(http.post(CHAT, json={**PARROT, "model": "plain"}), 404, "model_not_found", "model")
    error_of(http.post(EMBEDDINGS, json={"model": "parrot", "input": "x"}), 404, "model_not_found", "model")
    error_of(http.get("/v1/models/none"), 404, "model_not_found")
    error_of(http.get("/v1/responses/resp_none"), 404, "unknown_job")
    error_of(http.get("/v1/responses/resp_none", params={"starting_after": "x"}), 400, VALUE, "starting_after")
    error_of(http.post("/v1/responses/none/cancel"), 404, "unknown_job")
    assert "Only POST is allowed" in error_of(http.get(CHAT), 405, "method_not_allowed")["message"]
    error_of(http.get("/v1/chat/none"), 404, "not_found")
    plain = http.post("/v1/jobs", json={"type": "plain", "input": {"text": "x"}}).json()["job_id"]
    error_of(http.get("/v1/responses/resp_" + plain.removeprefix("job-")), 404, "unknown_job")
    assert http.get("/v1/nothing").headers["content-type"] == "application/problem+json"  # other routes are as ever


# ── what becomes of the job ──


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_word_has_a_status(http: httpx.Client, stream: bool) -> None:
    asked = {"model": "parrot", "messages": [{"role": "user", "content": " "}], "stream": stream}
    refused = http.post(CHAT, json=asked | {"then": "refuse"})
    error_of(refused, 400, "unspeakable", "messages[0].content")
    failed = error_of(http.post(CHAT, json=asked | {"then": "raise"}), 500, "exception")
    assert "no more words" in failed["message"] and failed["type"] == "server_error"
    error_of(http.post(CHAT, json=asked | {"then": "exit"}), 500, "exit")
    error_of(http.post(CHAT, json=asked | {"then": "nonsense"}), 500, "protocol")
    late = http.post(CHAT, json=asked | {"then": "hang", "limits": {"run_s": 0.2}})
    error_of(late, 504, "timeout.run")
    assert late.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "path, body, parameter, field",
    [
        (CHAT, PARROT, "messages.0.content", "messages[0].content"),
        (CHAT, PARROT, "max_tokens", "max_tokens"),
        (COMPLETIONS, COMPLETE, "prompt", "prompt"),
        (EMBEDDINGS, {"model": "lengths", "input": "hi"}, "input.0", "input[0]"),
        (RESPONSES, RESPOND, "messages.0.content", "input"),
        (RESPONSES, RESPOND, "max_tokens", "max_output_tokens"),
        (RESPONSES, RESPOND, "response_format.json_schema", "text.format"),
        (RESPONSES, RESPOND, "tools.0.function.name", "tools"),
        (RESPONSES, RESPOND, "then", "then"),
        (RESPONSES, RESPOND, "", None),
    ],
)
def test_a_job_that_refuses_names_the_field_of_its_request(
    http: httpx.Client, path: str, body: dict[str, Any], parameter: str, field: str | None
) -> None:
    """Whole, and in the middle of a stream, if that has a `param`: the conversation of a response is its `input`."""
    refusing = body | {"then": "refuse", "refused": parameter}
    told = error_of(http.post(path, json=refusing), 400, "unspeakable", field)
    assert told["message"].startswith(f"{field}: " if field else "these words")
    if path in (CHAT, COMPLETIONS):
        streamed = http.post(path, json=refusing | {"stream": True}).text
        assert json.loads(streamed.rstrip().rpartition("data: ")[2])["error"]["param"] == field, streamed


@pytest.mark.parametrize("content", ["hi", "word " * 8000], ids=["small", "large"])
def test_an_input_that_its_type_refuses_is_told_by_the_field_of_its_request(http: httpx.Client, content: str) -> None:
    says = [{"role": "user", "content": content}]
    for path, body, field in (
        (CHAT, {"model": "parrot", "messages": says}, "max_tokens"),
        (RESPONSES, {"model": "parrot", "input": says}, "max_output_tokens"),
    ):
        error_of(http.post(path, json=body | {field: 10_001}), 400, VALUE, field)


@pytest.mark.parametrize("then, code", [("raise", "exception"), ("exit", "exit"), ("nonsense", "protocol")])
def test_a_failure_in_the_middle_is_in_the_stream_and_nothing_follows(url: str, then: str, code: str) -> None:
    body = json.dumps(PARROT | {"stream": True, "then": then})
    told = subprocess.run(
        ["curl", "-sSN", "--fail", f"{url}{CHAT}", "-H", "content-type: application/json", "-d", body],
        capture_output=True, text=True, timeout=110, check=True,
    ).stdout  # fmt: skip
    lines = [line for line in told.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: {") for line in lines) and "[DONE]" not in told
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == code and error["param"] is None and error["type"] == "server_error"
    assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"] == {"content": "hi"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_job_is_not_run_again_by_the_package(url: str, http: httpx.Client, stream: bool) -> None:
    """The package tries again after 409 by itself, twice."""
    tag = f"killed-{stream}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
        assert client.max_retries == 2
        with pytest.raises(openai.ConflictError) as refused:
            _kill_while(http, tag, client, stream)
    assert refused.value.code == "cancelled" and refused.value.response.headers["x-should-retry"] == "false"
    assert len(http.get("/v1/jobs", params={"tag": f"user:{tag}"}).json()["jobs"]) == 1


def _kill_while(http: httpx.Client, tag: str, client: openai.OpenAI, stream: bool) -> None:
    def kill() -> None:
        found: Any = until(lambda: http.get("/v1/jobs", params={"tag": f"user:{tag}"}).json()["jobs"], "it is there")
        http.delete(f"/v1/jobs/{found[0]['job_id']}")

    killer = Thread(target=kill)
    killer.start()
    try:
        asked: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": " "}], "user": tag}
        list(client.chat.completions.create(**asked, stream=stream, extra_body={"then": "hang"}))
    finally:
        killer.join()


def test_the_package_tries_again_when_there_is_no_room(folder: Path, serve: Serve) -> None:
    (folder / "my_jobs.py").write_text(JOBS)
    server = serve("my_jobs.py", "--port", "0", env={"KILLABLE_SERVER__QUEUE_JOBS_MAX": "1"})
    asked: dict[str, Any] = {"model": "parrot", "messages": HI}
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        tried = Event()

        def note(response: httpx.Response) -> None:
            if response.status_code == 429:
                tried.set()

        hang = {"type": "parrot", "input": {"messages": HI, "then": "hang"}}
        busy = [http.post("/v1/jobs", json=hang).json()["job_id"] for _ in range(usable_cores())]
        for job_id in busy:
            until(lambda job_id=job_id: http.get(f"/v1/jobs/{job_id}").json()["state"] == "running", "it runs")
        busy.append(http.post("/v1/jobs", json=hang).json()["job_id"])
        full = http.post(CHAT, json=asked)
        error_of(full, 429, "queue_full")
        assert full.headers["x-should-retry"] == "true" and int(full.headers["retry-after"]) >= 1

        def make_room() -> None:
            tried.wait(60)
            for job_id in busy:
                http.delete(f"/v1/jobs/{job_id}")

        maker = Thread(target=make_room)
        maker.start()
        hooks: Any = {"response": [note]}
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=8,
            http_client=httpx.Client(event_hooks=hooks, trust_env=False),
        ) as client:  # fmt: skip
            assert client.chat.completions.create(**asked).choices[0].message.content == "hi"
        maker.join()
        assert tried.is_set()


# ── keys ──


def test_keys_roles_and_whose_responses_they_see(folder: Path, serve: Serve) -> None:
    keys = {"writer": "w" * 32, "reader": "r" * 32, "other": "o" * 32}
    roles = {"writer": "submit", "reader": "read", "other": "submit"}
    (folder / "my_jobs.py").write_text(JOBS)
    (folder / "keys").write_text("".join(f"{name} {roles[name]} {key}\n" for name, key in keys.items()))
    (folder / "keys").chmod(0o600)
    (folder / "killable.toml").write_text('[server]\napi_keys_file = "keys"\nvisibility = "own"\n')
    url = serve("my_jobs.py", "--port", "0").url

    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=httpx.Client(trust_env=False)
        )

    with client(keys["writer"]) as writer, client(keys["reader"]) as reader, client(keys["other"]) as other:
        made = writer.responses.create(model="parrot", input="one")
        assert writer.responses.retrieve(made.id).output_text == "one"
        assert [model.id for model in reader.models.list()]
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            reader.responses.create(model="parrot", input="one")
        assert forbidden.value.code == "forbidden" and forbidden.value.type == "permission_error"
        for call in (other.responses.retrieve, other.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                call(made.id)
    with client("wrong") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
