"""`killable serve --mcp` with the MCP SDK's own client: a real process, keys, an audit log, a real model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import psutil
import pytest
from support.killable_command import Command, Serve, Server
from support.mcp_client import ACCEPT, answered, call, connected, message, post, refusal_of, session_of, text_of
from support.processes import computes, read_process
from support.waiting import Pending, until_async

if TYPE_CHECKING:
    from mcp_types import CallToolResult

JOBS = """
from collections.abc import Iterator
from killable import Context, job

@job
def add(a: int, b: int = 2) -> dict[str, int]:
    "Add two numbers."
    return {"sum": a + b}

@job
def native() -> int:
    "Hours in one native call."
    return sum(range(10**13))

@job(grace_s=30)
def steps(ctx: Context) -> Iterator[str]:
    yield "first"
    while True:
        ctx.sleep(60)
"""
MODES = ("legacy", "auto")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    return tmp_path


class Asking:
    """Looks at a server over its HTTP API."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def one(self, type: str, *states: str) -> dict[str, Any]:
        """Return the record of the latest job of a type, once it is in one of these states."""

        async def found() -> dict[str, Any] | Pending:
            jobs = (await self.http.get("/v1/jobs", params={"type": type})).json()["jobs"]
            if not jobs or jobs[0]["state"] not in states:
                return Pending([(job["type"], job["state"]) for job in jobs])
            record: dict[str, Any] = (await self.http.get(f"/v1/jobs/{jobs[0]['job_id']}")).json()
            return record

        return await until_async(found, f"{type} is {states}")

    async def first_token(self, type: str) -> None:
        """Wait until the latest job of a type has streamed something."""

        async def said() -> bool | Pending:
            record = await self.one(type, "running")
            return bool(record["tokens"]) or Pending(record)

        await until_async(said, f"{type} has streamed")


@asynccontextmanager
async def asking(url: str, key: str = "") -> AsyncIterator[Asking]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, verify=False, trust_env=False, timeout=60) as client:
        yield Asking(client)


@pytest.mark.parametrize("mode", MODES)
async def test_a_native_call_is_killed_with_its_request(folder: Path, serve: Serve, mode: str) -> None:
    server = serve("my_jobs.py", "--mcp", "--port", "0")
    async with asking(server.url) as asked, connected(server.url, mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "native", {})
            job = await asked.one("native", "running")
            process = read_process(job["pid"])
            await until_async(computes(job["pid"]), "it is in its native call")
            group.cancel_scope.cancel()
        end = await asked.one("native", "cancelled")
        assert end["certificate"]["last_signal"] == "SIGKILL" and end["certificate"]["proof"]
        assert end["certificate"]["tree_empty"] is not None
        assert process is not None and read_process(job["pid"]) != process
        assert (await client.call_tool("add", {"a": 1})).structured_content == {"sum": 3}
    assert server.stop()[:2] == (0, [])


@pytest.mark.parametrize("mode", MODES)
async def test_a_model_streams_and_is_cancelled_in_mid_sentence(tmp_path: Path, serve: Serve, mode: str) -> None:
    """The built-in types: SmolLM2 through llama.cpp."""
    server = serve("--mcp", "--port", "0")
    async with asking(server.url) as asked, connected(server.url, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"generate", "tokenize", "embed"} <= tools.keys()
        assert tools["generate"].input_schema["properties"]["max_tokens"]["minimum"] == 1
        told: list[str] = []
        enough = anyio.Event()

        async def note(progress: float, total: float | None, said: str | None) -> None:
            told.append(said or "")
            if len("".join(told)) > 20:
                enough.set()

        async def generate() -> None:
            await client.call_tool(
                "generate", {"prompt": "Tell a long story.", "max_tokens": 1500}, progress_callback=note
            )

        async with anyio.create_task_group() as group:
            group.start_soon(generate)
            await enough.wait()
            job = await asked.one("generate", "running")
            process = read_process(job["pid"])
            group.cancel_scope.cancel()
        end = await asked.one("generate", "cancelled")
        assert 0 < end["tokens"] < 1500 and end["certificate"]["tree_empty"] is not None
        assert read_process(job["pid"]) != process
        answer = await client.call_tool("generate", {"prompt": "Count to five.", "max_tokens": 12})
        assert not answer.is_error and answer.structured_content["tokens"] <= 12
        assert len(text_of(answer)) > 10
        counted = await client.call_tool("tokenize", {"text": "one two three"})
        assert not counted.is_error, counted


async def test_keys_roles_and_the_audit_log(folder: Path, serve: Serve) -> None:
    (folder / "killable.toml").write_text(
        '[server]\nport = 0\nmcp = true\napi_keys_file = "keys"\naudit_log = "audit.log"\nvisibility = "own"\n'
    )
    keys = {
        name: Command(folder).json("keys", "make", name, "--role", role)["key"]
        for name, role in (("team", "submit"), ("other", "submit"), ("looker", "read"))
    }
    server = serve("my_jobs.py")
    async with asking(server.url, keys["looker"]) as asked:
        refused = await post(asked.http, message("ping", 1))
        assert refused.status_code == 403 and "the role submit" in refused.text
        assert (await post(asked.http, message("ping", 1), authorization="Bearer wrong")).status_code == 401
        assert (await post(asked.http, message("ping", 1), origin="http://evil.example")).status_code == 403
        assert (await post(asked.http, message("ping", 1), host="evil.example")).status_code == 421
    for mode in MODES:
        assert (await refusal_of(server.url, mode, keys["looker"])).startswith("forbidden: This needs a key with the")
        assert (await refusal_of(server.url, mode, "wrong")).startswith("unauthorized: ")
    async with (
        asking(server.url, keys["team"]) as team,
        asking(server.url, keys["other"]) as other,
        anyio.create_task_group() as group,
    ):
        session = await session_of(team.http)
        group.start_soon(post, team.http, call("steps", id=1), session)
        job = await team.one("steps", "running")
        assert job["tenant"] == "team"
        assert (await other.http.get(f"/v1/jobs/{job['job_id']}")).status_code == 404
        cancel = message("notifications/cancelled", requestId=1)
        await post(other.http, cancel, session)
        await other.http.delete("/mcp", headers={"mcp-session-id": session})
        assert (await team.one("steps", "running", "stopping", "cancelled"))["state"] == "running"
        await post(team.http, cancel, session)
        await team.one("steps", "cancelled")
        over = await post(team.http, call("add", id=2, a="x"))
        assert answered(over)["result"]["isError"] is True

    def lines() -> list[dict[str, Any]] | Pending:
        found = audited(folder)
        ours = [line for line in found if line.get("path") == "/mcp" and line.get("status", 200) < 400]
        return ours if len(ours) >= 3 else Pending(found)

    first, second, third = await until_async(lines, "three records")
    assert (first["event"], first["tenant"], first["job_id"]) == ("submit", "team", job["job_id"])
    assert (second["event"], second["tenant"], second["job_id"]) == ("cancel", "team", job["job_id"])
    assert (third["event"], third["code"]) == ("submit", "invalid") and "job_id" not in third
    assert {line.get("status") for line in audited(folder) if line.get("path") == "/mcp"} >= {401, 403, 421}
    await revoke_in_the_middle_of_a_call(folder, server, keys["team"])


async def revoke_in_the_middle_of_a_call(folder: Path, server: Server, key: str) -> None:
    """What a key has begun goes on when it is revoked, until its client leaves; it begins nothing else."""
    async with asking(server.url, key) as team, connected(server.url, key=key) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "steps", {})
            job = await team.one("steps", "running")
            lines = (folder / "keys").read_text().splitlines(keepends=True)
            (folder / "keys").write_text("".join(line for line in lines if not line.startswith("team ")))
            os.kill(server.process.pid, signal.SIGHUP)

            async def is_gone() -> bool | Pending:
                answer = await team.http.get("/v1/info")
                return answer.status_code == 401 or Pending(answer.text)

            await until_async(is_gone, "the key is gone")
            assert (await refusal_of(server.url, key=key)).startswith("unauthorized: ")
            ended = [line for line in audited(folder) if line.get("job_id") == job["job_id"]]
            assert [line["event"] for line in ended] == ["submit"]
            group.cancel_scope.cancel()

        def has_left() -> bool | Pending:
            events = [line["event"] for line in audited(folder) if line.get("job_id") == job["job_id"]]
            return events == ["submit", "client_gone"] or Pending(events)

        await until_async(has_left, "its client has left")


def audited(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
async def test_a_shutdown_ends_calls_with_an_answer_and_waits_for_no_listener(
    folder: Path, serve: Serve, mode: str
) -> None:
    server = serve("my_jobs.py", "--mcp", "--port", "0")
    answers: list[CallToolResult] = []
    async with asking(server.url) as asked, connected(server.url, mode) as client:
        listening = await asked.http.send(asked.http.build_request("GET", "/mcp", headers=ACCEPT), stream=True)
        assert listening.headers["content-type"].startswith("text/event-stream")

        async def run() -> None:
            answers.append(await client.call_tool("steps", {}))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await asked.first_token("steps")
            os.kill(server.process.pid, signal.SIGTERM)
        await listening.aread()
    (answer,) = answers
    assert answer.is_error and text_of(answer).startswith("first")
    assert answer.structured_content["error"]["code"] == "cancelled"
    assert answer.structured_content["error"]["by"] == "shutdown"
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0


async def test_a_session_survives_the_server(folder: Path, serve: Serve) -> None:
    """Nothing of it is kept, so that no client has to begin anew after a restart."""
    first = serve("my_jobs.py", "--mcp", "--port", "0")
    async with asking(first.url) as asked:
        session = await session_of(asked.http)
    first.die()
    second = serve("my_jobs.py", "--mcp", "--port", "0")
    async with asking(second.url) as asked:
        answer = answered(await post(asked.http, call("add", a=1), session))
        assert answer["result"]["structuredContent"] == {"sum": 3}


async def test_a_changed_list_is_told(folder: Path, serve: Serve) -> None:
    server = serve("my_jobs.py", "--mcp", "--port", "0")
    async with asking(server.url) as asked, connected(server.url) as client:
        listening = await asked.http.send(asked.http.build_request("GET", "/mcp", headers=ACCEPT), stream=True)
        async with client.listen(tools_list_changed=True) as subscription:
            (folder / "my_jobs.py").write_text(JOBS.replace("def add", "def sum_of"))
            (guard,) = psutil.Process(server.process.pid).children()
            (zygote,) = guard.children()
            zygote.kill()
            async for _ in subscription:
                names = {tool.name for tool in (await client.list_tools()).tools}
                if "sum_of" in names:
                    break
            assert "add" not in names
        async for line in listening.aiter_lines():
            if line.startswith("data:"):
                assert json.loads(line.removeprefix("data:"))["method"] == "notifications/tools/list_changed"
                break
        await listening.aclose()
