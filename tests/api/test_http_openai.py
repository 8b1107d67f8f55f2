"""OpenAI's routes as a page calls them, with fetch; and over a head with nodes as over one machine (ENGINE=cluster)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_server import OwnServer, StartServer
from support import openai_jobs
from support.waiting import Pending, until_async

from killable.api.app import create_app
from killable.api.http.app_settings import HttpSettings
from killable.supervisor.settings import PoolSpec

CHAT = "/v1/chat/completions"
PAGE = "https://app.example"
BROWSER = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,"
    "x-stainless-timeout",
}
"""What a browser asks before OpenAI's package for pages may send its request."""


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "parrot", "messages": [{"role": "user", "content": text}], **more}


@pytest_asyncio.fixture
async def parrots(start_server: StartServer) -> AsyncIterator[OwnServer]:
    pool = PoolSpec("parrots", (str(Path(openai_jobs.__file__)),), workers=1, spares=0)
    http = HttpSettings(cors_origins=(PAGE,))
    async with start_server(workers=1, more=(pool,), http=http, queue_jobs_max=2) as server:
        yield server


async def test_a_chat_whole_and_streamed(parrots: OwnServer) -> None:
    whole = (await parrots.client.post(CHAT, json=asked("one two"))).json()
    assert whole["choices"][0]["message"]["content"] == "one two" and whole["usage"]["total_tokens"] == 4
    text = (await parrots.client.post(CHAT, json=asked("one two", stream=True))).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]) == "one two"
    late = (await parrots.client.post(CHAT, json=asked("one", stream=True, then="raise"))).text
    assert '"code":"exception"' in late.split("\n\n")[-2] and "[DONE]" not in late


async def test_a_page_may_ask_read_and_leave(parrots: OwnServer) -> None:
    preflight = await parrots.client.options(CHAT, headers=BROWSER)
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == PAGE
    refused = await parrots.client.post(CHAT, json=asked("hi", top_p=0.5), headers={"origin": PAGE})
    assert refused.json()["error"]["param"] == "top_p"
    assert "x-should-retry" in refused.headers["access-control-expose-headers"].lower()
    foreign = await parrots.client.post(CHAT, json=asked("hi"), headers={"origin": "https://other.example"})
    assert foreign.status_code == 403 and foreign.json()["error"]["code"] == "forbidden"

    endless = asked("hi", stream=True, then="hang")
    async with parrots.client.stream("POST", CHAT, json=endless, headers={"origin": PAGE}) as answer:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["x-accel-buffering"] == "no" and answer.headers["cache-control"] == "no-store"
        async for line in answer.aiter_lines():
            if '"content":"hi"' in line:
                break  # the page calls `controller.abort()`
    id = json.loads(line.removeprefix("data: "))["id"].removeprefix("chatcmpl-")

    async def ended() -> Any:
        record = await parrots.record(f"job-{id}")
        return record["ended_at"] and record

    record = await until_async(ended, "its job has ended")
    assert record["state"] == "cancelled" and record["certificate"]["by"] == "client_gone"
    assert record["usage"]["completion_tokens"] == 1


async def test_a_key_whose_request_was_refused_or_left_begins_anew(parrots: OwnServer) -> None:
    async def begin(**headers: str) -> str:
        """Begin a chat that never ends, and leave; return the id of its job."""
        async with parrots.client.stream(
            "POST", CHAT, json=asked("hi", stream=True, then="hang"), headers=headers
        ) as answer:
            async for line in answer.aiter_lines():
                if '"content":"hi"' in line:
                    return "job-" + json.loads(line.removeprefix("data: "))["id"].removeprefix("chatcmpl-")
        raise AssertionError("it has ended")

    async def left(job_id: str) -> None:
        async def is_leaving() -> bool:
            return (await parrots.record(job_id))["state"] != "running"

        await until_async(is_leaving, "its client has left")

    first = await begin(**{"idempotency-key": "one"})
    await left(first)
    second = await begin(**{"idempotency-key": "one"})
    assert second != first
    await left(second)

    hang = {"messages": [{"role": "user", "content": "hi"}], "then": "hang"}
    busy = await parrots.submit("parrot", **hang)
    await parrots.read(busy, until="token")
    waiting = await parrots.submit("parrot", **hang)
    two: dict[str, Any] = {"json": {"model": "parrot", "prompt": ["a", "b"]}, "headers": {"idempotency-key": "two"}}
    refused = await parrots.client.post("/v1/completions", **two)
    assert refused.json()["error"]["code"] == "queue_full" and refused.headers["x-should-retry"] == "true"
    for job_id in (waiting, busy):
        await parrots.client.delete(f"/v1/jobs/{job_id}")
    whole = await parrots.client.post("/v1/completions", **two)
    assert whole.status_code == 200, whole.text
    again = await parrots.client.post("/v1/completions", **two)
    assert again.json()["id"] == whole.json()["id"]


async def test_a_streamed_answer_is_one_stream_and_a_whole_one_none(start_server: StartServer) -> None:
    """Each job of a request was one: n=2 was always refused, and what a repeated request was refused for ended the
    answer that its first reader had.
    """
    pool = PoolSpec("parrots", (str(Path(openai_jobs.__file__)),), workers=2, spares=0)
    async with start_server(workers=1, more=(pool,), tenants={"default": {"streams_max": 1}}) as server:
        endless = {"json": asked("hi", stream=True, then="hang"), "headers": {"idempotency-key": "one"}}
        async with server.client.stream("POST", CHAT, **endless) as answer:
            lines = answer.aiter_lines()
            while '"content":"hi"' not in await anext(lines):
                pass
            for again in (endless, {"json": asked("hi", stream=True, n=2)}):
                refused = await server.client.post(CHAT, **again)
                assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_streams"
            (job,) = (await server.client.get("/v1/jobs")).json()["jobs"]
            assert job["state"] == "running", "nothing was started, and nothing ended"
            whole = await server.client.post(CHAT, json=asked("hi", n=2))
            assert [choice["message"]["content"] for choice in whole.json()["choices"]] == ["hi", "hi"]

        await until_async(lambda: not server.supervisor._tenants.streams or Pending("it counts"), "its reader has left")
        assert "[DONE]" in (await server.client.post(CHAT, json=asked("hi", stream=True, n=2))).text


async def test_a_response_is_cancelled(parrots: OwnServer) -> None:
    begun = (
        await parrots.client.post(
            "/v1/responses", json={"model": "parrot", "input": "one", "background": True, "then": "hang"}
        )
    ).json()
    address = f"/v1/responses/{begun['id']}"

    async def speaks() -> Any:
        return (await parrots.client.get(address)).json()["output"]

    assert (await until_async(speaks, "it speaks"))[0]["content"][0]["text"] == "one"
    assert (await parrots.client.post(f"{address}/cancel")).json()["status"] == "cancelled"


@pytest.mark.own_server
@pytest.mark.parametrize("path", ["/v1/chat/broken", "/v1/messages"])
async def test_a_fault_of_the_server_has_the_form_of_its_address(server: OwnServer, path: str) -> None:
    app = create_app(server.supervisor)

    async def broken() -> None:
        raise RuntimeError("s3cret")

    app.add_api_route(path, broken)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(path)
    assert answer.status_code == 500 and answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "internal" and "s3cret" not in answer.text
