"""Job types as tools: a call is a job, and ends as one. With the SDK's own client, in both forms of the protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from api_server import LONG_CHECKS, OwnServer, StartServer
from support.late_import import LateImport
from support.mcp_client import HANDSHAKE, answered, call, connected, message, post, refusal_of, session_of, text_of
from support.processes import computes, read_process
from support.waiting import Pending, until_async

from killable.api.http.app_settings import HttpSettings
from killable.api.mcp.early_cancels import KEPT_MAX
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from mcp.client.client import Client

    from killable.api.mcp.endpoint import McpEndpoint

pytestmark = pytest.mark.own_server
mcp_exceptions, mcp_types = LateImport("mcp.shared.exceptions"), LateImport("mcp_types")


def tools(supervisor: Supervisor) -> McpEndpoint:
    from killable.api.mcp.endpoint import McpEndpoint

    return McpEndpoint(supervisor, LONG_CHECKS.body_bytes_max)


@pytest.fixture
async def server(start_server: StartServer) -> AsyncIterator[OwnServer]:
    async with start_server(tools=tools) as running:
        yield running


def url_of(server: OwnServer) -> str:
    return str(server.client.base_url).rstrip("/")


Connect = Callable[[], AbstractAsyncContextManager["Client"]]


FILE_JOBS = PoolSpec(name="files", modules=(str(Path(__file__).parent.parent / "support" / "file_jobs.py"),), workers=1)


@pytest.fixture(params=["legacy", "auto"])
def connect(request: pytest.FixtureRequest, server: OwnServer) -> Connect:
    """Connect a client, in each form of the protocol. The test's own task has to leave it."""
    return lambda: connected(url_of(server), request.param)


async def the_job(server: OwnServer, state: str = "", type: str = "") -> JobRecord:
    """Return the only job of a type, once it is in this state; one that runs once its process is known."""

    async def found() -> JobRecord | Pending:
        records, _ = await server.supervisor.list(type=type or None)
        fits = len(records) == 1 and state in ("", records[0].state) and (state != "running" or records[0].pid)
        return records[0] if fits else Pending([(record.type, record.state) for record in records])

    return await until_async(found, f"one job {type} {state}")


async def test_each_available_type_is_a_tool(connect: Connect) -> None:
    async with connect() as client:
        found = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"echo", "count", "spin"} <= found.keys() and "unavailable" not in found
        count = found["count"]
        assert count.description is not None and count.description.startswith("Yield n tokens")
        assert count.input_schema["type"] == "object" and count.input_schema["required"] == ["n"]
        assert found["repeatable"].annotations is not None and found["repeatable"].annotations.idempotent_hint is True
        assert found["echo"].annotations is None


async def test_a_result_is_content_and_structured_content(connect: Connect, server: OwnServer) -> None:
    async with connect() as client:
        result = await client.call_tool("echo", {"text": "hi", "number": 3})
        assert not result.is_error
        assert result.structured_content == json.loads(text_of(result)) == {"text": "hi", "number": 3, "mode": "plain"}
        job = await the_job(server, "completed")
        assert result.meta is not None and result.meta["killable/job_id"] == job.job_id
        assert (await client.call_tool("big", {"chars": 3})).structured_content == {"result": "xxx"}


async def test_what_streams_is_text_and_progress(connect: Connect) -> None:
    async with connect() as client:
        told: list[tuple[float, float | None, str | None]] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))

        result = await client.call_tool("say", {"values": ["one ", "two ", "three"]}, progress_callback=note)
        assert text_of(result) == "one two three" and result.structured_content is None
        assert "".join(message or "" for _, _, message in told) == "one two three"
        assert told[-1][0] == 3.0
        told.clear()
        await client.call_tool("reports", {}, progress_callback=note)
        assert told and all(total is not None for _, total, _ in told)
        numbers = [number for number, _, _ in told]
        assert numbers == sorted(set(numbers))


async def test_without_a_token_no_progress_is_sent(server: OwnServer) -> None:
    answer = await post(server.client, call("say", values=["a", "b"]))
    assert answer.text.count("data:") == 1 and answered(answer)["result"]["content"][0]["text"] == "ab"


async def test_bytes_are_a_resource_and_images_are_shown(connect: Connect) -> None:
    async with connect() as client:
        (block,) = (await client.call_tool("raw", {"size": 5})).content
        assert isinstance(block, mcp_types.EmbeddedResource) and block.resource.mime_type == "application/octet-stream"


async def test_a_failure_says_why_and_what_would_help(connect: Connect, server: OwnServer) -> None:
    async with connect() as client:
        result = await client.call_tool("fails", {"message": "no luck today"})
        assert result.is_error
        error = result.structured_content["error"]
        job = await the_job(server, "failed")
        assert error["code"] == "exception" and error["message"] == "ValueError: no luck today"
        assert error["job_id"] == job.job_id and error["remedy"]
        told = text_of(result)
        assert told.splitlines()[0] == "exception: ValueError: no luck today" and job.job_id in told
        assert f"remedy: {error['remedy']}" in told


async def test_a_wrong_argument_is_named(connect: Connect, server: OwnServer) -> None:
    async with connect() as client:
        result = await client.call_tool("echo", {"number": "x", "mode": "odd", "size": 1})
        assert result.is_error and result.structured_content["error"]["code"] == "invalid"
        told = text_of(result)
        for said in ("number must be an integer", "mode must be one of", "size is unknown"):
            assert said in told
        assert (await server.supervisor.list())[0] == []


async def test_an_unknown_tool_is_an_error_of_the_protocol(connect: Connect) -> None:
    async with connect() as client:
        for name in ("nothing", "unavailable", "x" * 5000):
            with pytest.raises(mcp_exceptions.MCPError, match="Unknown tool") as caught:
                await client.call_tool(name, {})
            assert caught.value.code == -32602 and "echo" in caught.value.data["known"]
            assert len(str(caught.value)) < 2000


async def test_a_cancelled_call_is_a_killed_process(connect: Connect, server: OwnServer) -> None:
    async with connect() as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "sleep_native", {})
            running = await the_job(server, "running")
            assert running.pid is not None
            process = read_process(running.pid)
            await until_async(computes(running.pid), "it is in its native call")
            group.cancel_scope.cancel()
        ended = await the_job(server, "cancelled")
        assert ended.certificate is not None
        assert ended.certificate["last_signal"] == "SIGKILL" and ended.certificate["tree_empty"] is not None
        # In the protocol without a handshake a close is a cancel.
        assert ended.certificate["by"] in ("user", "client_gone")
        assert process is not None and read_process(process.pid) != process


async def test_a_queued_call_that_is_cancelled_never_starts(start_server: StartServer) -> None:
    async with (
        start_server(tools=tools, workers=1) as server,
        connected(url_of(server), "legacy") as client,
    ):
        busy = await server.submit("spin")
        await server.read(busy, until="started")
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "echo", {})
            await the_job(server, "queued", "echo")
            group.cancel_scope.cancel()
        ended = await the_job(server, "cancelled", "echo")
        assert ended.started_at is None and ended.attempts == 0 and ended.worker_id is None and ended.pid is None
        await server.supervisor.cancel(busy, grace_s=0)


async def test_a_closed_connection_is_a_cancelled_job(server: OwnServer) -> None:
    writer = await raw_call(server, call("spin"))
    await the_job(server, "running")
    writer.close()
    ended = await the_job(server, "cancelled")
    assert ended.error is not None and ended.error["by"] == "client_gone"


async def raw_call(server: OwnServer, content: dict[str, Any], receive_bytes: int = 0) -> Any:
    """Send a call over a connection of one's own; return its writer."""
    body = json.dumps(content).encode()
    head = {"host": f"127.0.0.1:{server.port}", "content-type": "application/json", "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (HANDSHAKE | head).items())
    _, writer = await server.raw(f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body, receive_bytes)
    return writer


async def test_a_client_that_reads_nothing_has_left(start_server: StartServer) -> None:
    """Its job is cancelled after the send timeout: what it streams has nowhere to go."""
    async with start_server(tools=tools, http=HttpSettings(send_timeout_s=0.5)) as server:
        flood = call("flood", n=50_000, chars=1000, gate="/no/such/gate")
        flood["params"]["_meta"] = {"progressToken": "p"}
        writer = await raw_call(server, flood, receive_bytes=4096)
        ended = await the_job(server, "cancelled")
        assert ended.error is not None and ended.error["by"] == "client_gone"
        writer.close()


@pytest.mark.parametrize(
    ("reason", "status", "told"),
    [("enough", 202, "enough"), ("half \ud83d", 400, "half \N{REPLACEMENT CHARACTER}")],  # the SDK's, after the cancel
    ids=["", "a reason that was cut within a character"],
)
async def test_a_session_is_only_a_name(server: OwnServer, reason: str, status: int, told: str) -> None:
    """It is kept nowhere, so that one survives a restart; only within it does an id name a request."""
    session, other = await session_of(server.client), "0" * 32
    async with anyio.create_task_group() as group:
        answers: list[Any] = []

        async def run() -> None:
            answers.append(await post(server.client, call("spin", id="7"), session))

        group.start_soon(run)
        job = await the_job(server, "running")
        cancel = message("notifications/cancelled", requestId="7", reason=reason)
        for wrong in (other, "", "7"):
            assert (await post(server.client, cancel, wrong)).status_code == status
        assert (await post(server.client, message("tools/list", 8), other)).status_code == 200
        assert (await server.record(job.job_id))["state"] == "running"
        assert (await post(server.client, cancel, session)).status_code == status
    ended = await the_job(server, "cancelled")
    assert ended.error is not None and (ended.error["by"], ended.error["reason"]) == ("user", told)
    error = answered(answers[0])["error"]
    assert error["code"] == -32800 and error["data"]["certificate"]["tree_empty"] is not None


async def test_a_cancel_is_read_as_json_and_ends_each_call_with_its_id(server: OwnServer) -> None:
    """PHP's json_encode writes a slash as an escape. A client whose network broke sends its call again."""
    session = await session_of(server.client)
    async with anyio.create_task_group() as group:
        for tool in ("spin", "sleep_native"):
            group.start_soon(post, server.client, call(tool, id=7), session)
            await the_job(server, "running", tool)
        cancel = json.dumps(message("notifications/cancelled", requestId=7)).replace("/", "\\/").encode()
        assert (await post(server.client, cancel, session)).status_code == 202
    for tool in ("spin", "sleep_native"):
        await the_job(server, "cancelled", tool)


async def test_a_call_whose_cancel_came_first_never_starts(server: OwnServer) -> None:
    """The cancel overtakes a call with large arguments, which are read in another process, and others under load."""
    session, other = await session_of(server.client), await session_of(server.client)
    for id in range(KEPT_MAX + 1):
        await post(server.client, message("notifications/cancelled", requestId=id), session)
    assert (await server.client.delete("/mcp", headers={"mcp-session-id": other})).status_code == 204
    for id, its in ((KEPT_MAX, session), (2, other)):
        answer = answered(await post(server.client, call("echo", id=id), its))
        assert answer["error"]["code"] == -32800, answer
    assert (await server.supervisor.list())[0] == []
    for id in (0, KEPT_MAX):  # the one forgotten for the last, and the one that has counted
        assert "result" in answered(await post(server.client, call("echo", id=id), session))


async def test_the_end_of_a_session_ends_its_calls(server: OwnServer) -> None:
    session = await session_of(server.client)
    async with anyio.create_task_group() as group:
        group.start_soon(post, server.client, call("spin"), session)
        await the_job(server, "running")
        assert (await server.client.delete("/mcp", headers={"mcp-session-id": "1" * 32})).status_code == 204
        assert (await server.client.delete("/mcp", headers={"mcp-session-id": session})).status_code == 204
    await the_job(server, "cancelled")


@pytest.mark.parametrize("size", [10, 40_000])
async def test_large_arguments_are_read_elsewhere(connect: Connect, size: int) -> None:
    async with connect() as client:
        result = await client.call_tool("echo", {"text": "ä" * size})
        assert not result.is_error and (result.structured_content["text"] == "ä" * size if size == 10 else True)
        wrong = await client.call_tool("echo", {"text": "ä" * size, "number": "x"})
        assert "number must be an integer" in text_of(wrong)


@pytest.mark.parametrize("text", ["", "x" * 20_000], ids=["small", "large"])
async def test_a_file_that_was_uploaded_is_an_argument(start_server: StartServer, text: str) -> None:
    async with start_server(tools=tools, more=(FILE_JOBS,), has_files=True) as server:
        plain = {"content-type": "application/octet-stream"}
        uploaded = await server.client.post("/v1/files", params={"name": "a.png"}, content=b"x", headers=plain)
        given = {"album": {"title": "t", "pictures": []}, "cover": uploaded.json()["file_id"], "text": text}
        async with connected(url_of(server), "auto") as client:
            assert text_of(await client.call_tool("names", given)) == '["a.png"]'
        (listed,) = (await server.client.get("/v1/files")).json()["files"]
        assert listed["jobs"] == 1


async def test_what_is_large_is_a_link(connect: Connect, server: OwnServer) -> None:
    async with connect() as client:
        result = await client.call_tool("big", {"chars": 100_000})
        link = result.content[-1]
        assert isinstance(link, mcp_types.ResourceLink) and result.structured_content == {"$ref": link.uri}
        assert len((await server.client.get(link.uri)).json()) == 100_000
        result = await client.call_tool("flood", {"n": 100, "chars": 1000})
        link = result.content[-1]
        assert isinstance(link, mcp_types.ResourceLink) and len(text_of(result)) < 70_000
        assert len((await server.client.get(link.uri)).text) == 100_000


async def test_a_server_without_tools_says_how_to_have_them(start_server: StartServer) -> None:
    async with start_server() as server:
        answer = await post(server.client, message("ping", 1))
        error = answered(answer)["error"]
        assert (answer.status_code, error["code"], error["data"]["code"]) == (404, -32600, "not_found")
        assert "killable serve --mcp" in error["message"]
        for mode in ("legacy", "auto"):
            assert "killable serve --mcp" in await refusal_of(url_of(server), mode)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "Parse error"),
        (b"[]", 400, "Validation error"),
        (b"[" * 100_000, 400, ""),
        (b"[" * 10_000, 400, ""),
        (b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": []}', 400, "Validation error"),
        (b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": {}}}', 202, ""),
        (b"\xff" * 20_000, 400, ""),
        (b"x" * (2 << 20), 413, ""),
    ],
)
async def test_what_is_no_message_is_refused(server: OwnServer, body: bytes, status: int, said: str) -> None:
    answer = await post(server.client, body)
    assert answer.status_code == status and said in answer.text


async def test_an_image_is_content_that_clients_show(start_server: StartServer, tmp_path: Path) -> None:
    jobs = tmp_path / "drawing.py"
    jobs.write_text('from killable import job\n@job\ndef draw() -> bytes:\n    return b"\\x89PNG\\r\\n\\x1a\\n"\n')
    from killable.supervisor.settings import PoolSpec

    pool = PoolSpec(name="drawing", modules=(str(jobs),), workers=1)
    async with start_server(tools=tools, more=(pool,)) as server, connected(url_of(server)) as client:
        (block,) = (await client.call_tool("draw", {})).content
        assert isinstance(block, mcp_types.ImageContent) and block.mime_type == "image/png"
