"""The built-in models behind OpenAI's routes: SmolLM2 by llama.cpp, MiniLM, and DeepSeek's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from support.killable_command import Command, SharedServer
from support.late_import import LateImport
from support.long_wait_server import NO_STALLS
from support.waiting import until

openai = LateImport("openai")
SMOL, MINI = "smollm2-135m-instruct", "all-minilm-l6-v2"
SETTINGS = """
[server]
port = 0
[pools.text]
module = ["killable.workers.builtin.tokenize", "killable.workers.builtin.vocabulary"]
workers = 1
[pools.embeddings]
module = "killable.workers.builtin.embed"
workers = 1
[pools.llm]
module = ["killable.workers.builtin.generate", "killable.workers.builtin.chat"]
start_method = "spawn"
workers = 2
spares = 0
jobs_per_worker_max = 0
"""
"""Workers are used again: so the engine keeps what it has read of a prompt."""


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "killable.toml").write_text(SETTINGS)
    server = SharedServer(Command(folder, constants=NO_STALLS))
    yield server
    server.close()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    http = httpx.Client(verify=False, trust_env=False)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240, http_client=http) as opened:
        yield opened


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": SMOL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8} | more


def test_a_chat_whole_and_streamed_is_the_same_and_uses_the_cache(client: openai.OpenAI, url: str) -> None:
    whole = client.chat.completions.create(**asked("Name a colour."))
    *chunks, last = client.chat.completions.create(
        **asked("Name a colour."), stream=True, stream_options={"include_usage": True}
    )
    text = whole.choices[0].message.content
    assert text and "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert whole.usage is not None and whole.usage.completion_tokens == 8 and last.usage is not None
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    third = client.chat.completions.create(**asked("Name a colour."))
    details = [each.usage.prompt_tokens_details for each in (whole, last, third) if each.usage is not None]
    # One of the two workers has had it twice: neither ended because its engine had begun a thread meanwhile.
    assert httpx.get(f"{url}/v1/workers").json()["retired"] == []
    assert any(each is not None and each.cached_tokens for each in details), details


def test_stop_sequences_seeds_and_log_probabilities(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(**asked("Count from one to ten.", max_tokens=24)).choices[0].message.content
    assert text
    word = text.split()[3]
    stopped = client.chat.completions.create(**asked("Count from one to ten.", max_tokens=24, stop=word)).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == text[: text.index(word)]
    drawn = [
        client.chat.completions.create(**asked("Tell me a secret.", temperature=1.5, seed=seed)) for seed in (1, 1, 2)
    ]
    first, same, other = (each.choices[0].message.content for each in drawn)
    assert first == same != other
    told = client.chat.completions.create(**asked("Hi", logprobs=True, top_logprobs=2)).choices[0].logprobs
    assert told is not None and told.content is not None and len(told.content[0].top_logprobs) == 2
    completed = client.completions.create(model=SMOL, prompt="Once upon a", max_tokens=3, temperature=0, logprobs=1)
    columns = completed.choices[0].logprobs
    assert columns is not None and columns.tokens is not None and "".join(columns.tokens) == completed.choices[0].text
    assert columns.text_offset is not None and columns.text_offset[0] == len("Once upon a")


def test_an_answer_in_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    answer = client.chat.completions.create(**asked("A number, please.", response_format=form, max_tokens=32))
    assert json.loads(answer.choices[0].message.content or "")["n"] <= 9


def test_what_only_the_engine_can_refuse_is_a_fault_of_the_request(client: openai.OpenAI, url: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": {"type": "no such"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("A number, please.", response_format=form))
    assert "no such" in refused.value.message
    with pytest.raises(openai.BadRequestError) as foreign:
        client.chat.completions.create(**asked("Hi", logit_bias={"49152": 1}))
    assert foreign.value.param == "logit_bias"
    said = {"role": "user", "content": "Hi"}
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": 5}]}
    for more in ({"messages": [said, called, said]}, {"logit_bias": {"x": 1}}, {"logit_bias": {"1" * 5000: 1}}):
        job = {"type": "chat", "input": {"messages": [said], "max_tokens": 1, **more}}
        record = httpx.post(f"{url}/v1/jobs", json=job, headers={"Prefer": "wait=60"}, timeout=100).json()
        assert record["error"] and record["error"]["code"] == "input.invalid", record


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_with_the_counts(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("word " * 3000, stream=stream))
    assert refused.value.code == "context_length_exceeded" and refused.value.param == "messages"
    body: Any = refused.value.body
    assert body["context_tokens"] == 2048 and body["prompt_tokens"] > 3000
    assert "2048" in body["message"] and str(body["prompt_tokens"]) in body["message"]
    with pytest.raises(openai.BadRequestError) as long:
        client.embeddings.create(model=MINI, input=["short", "word " * 400])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input[1]")


def test_tools_are_refused_by_a_template_that_has_none(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("Hi", tools=[{"type": "function", "function": {"name": "f"}}]))
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")


def test_two_chats_at_once_are_both_whole(client: openai.OpenAI) -> None:
    texts = ["Name a colour.", "Name a city."]
    alone = [client.chat.completions.create(**asked(text)).choices[0].message.content for text in texts]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda text: client.chat.completions.create(**asked(text)), texts))
    assert [answer.choices[0].message.content for answer in answers] == alone


def test_a_stream_that_is_closed_ends_the_engine_and_counts_its_prompt(client: openai.OpenAI, url: str) -> None:
    stream = client.chat.completions.create(**asked("Tell me a long story.", max_tokens=2000, stream=True))
    id = next(iter(stream)).id.removeprefix("chatcmpl-")
    stream.close()

    def ended() -> Any:
        record = httpx.get(f"{url}/v1/jobs/job-{id}").json()
        return record["ended_at"] and record

    record = until(ended, "its job has ended")
    assert record["state"] == "cancelled" and record["certificate"]["by"] == "client_gone"
    assert record["usage"]["prompt_tokens"] > 20 and record["usage"]["completion_tokens"] >= 1


def test_vectors_of_like_texts_are_near(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model=MINI, input=["a cat", "a kitten", "an invoice"])
    cat, kitten, invoice = (each.embedding for each in found.data)
    assert len(cat) == 384 and found.usage.prompt_tokens > 6

    def likeness(one: list[float], other: list[float]) -> float:
        return sum(x * y for x, y in zip(one, other, strict=True))

    assert likeness(cat, kitten) > likeness(cat, invoice)


@pytest.mark.parametrize("model", [SMOL, "deepseek"])
def test_a_text_survives_its_tokens(url: str, model: str) -> None:
    text = "Hello, wörld!"
    with httpx.Client(base_url=url, timeout=120) as http:
        found = http.post("/tokenize", json={"model": model, "content": text, "with_pieces": True}).json()
        assert found["count"] == len(found["tokens"]) > 2
        ids = [each["id"] for each in found["tokens"]]
        assert http.post("/tokenize", json={"model": model, "prompt": text}).json()["tokens"] == ids
        assert http.post("/detokenize", json={"model": model, "tokens": ids}).json()["content"] == text


def test_a_response_of_the_model(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=SMOL, input="Say hello.", max_output_tokens=4, temperature=0)
    assert answer.status == "incomplete" and answer.output_text and answer.usage is not None
    assert answer.usage.output_tokens == 4
