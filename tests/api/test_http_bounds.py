"""Bounds on what a client may hold: connections, streams, the time for a header and for a body."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer
from support.waiting import Pending, until_async

from killable.api.cli.server import bounded_protocol
from killable.api.cli.server.bounded_protocol import FIELDS_MAX, HEADER_BYTES_MAX, PARAMETERS_MAX, PIPELINED_MAX
from killable.api.cli.server.idle_connections import LINGERING_MAX
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.api.http.failed_keys import FREE
from killable.supervisor.models import Submission

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = HttpSettings(header_timeout_s=0.2)
SLOW_BODY = HttpSettings(body_timeout_s=0.2)
"""Short, since a test waits for it to pass."""


def problem_in(answer: bytes, status: int, code: str) -> dict[str, Any]:
    """Check that an answer as it came is this problem, and the last one of its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].split()[1] == str(status), answer
    assert "content-type: application/problem+json" in lines and "connection: close" in lines
    assert f"content-length: {len(body)}" in lines
    problem: dict[str, Any] = json.loads(body)
    assert (problem["code"], problem["status"], problem["type"]) == (code, status, f"urn:killable:problem:{code}")
    return problem


async def ask(server: Server, request: bytes) -> bytes:
    """Send something on a connection of its own and return all that comes until the server closes it."""
    reader, writer = await server.raw(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def accepted(server: OwnServer, gate: Path) -> str:
    """Submit a job, and not over HTTP: its times are short."""
    record = await server.supervisor.submit(Submission("gated", json.dumps({"gates": [str(gate)]}).encode()))
    return record.job_id


# ── connections ──


async def busy(server: OwnServer, gate: Path, number: int) -> list[asyncio.StreamWriter]:
    """Open connections that wait for the end of a job, until its gate is there."""
    job_id = await accepted(server, gate)
    waits = f"GET /v1/jobs/{job_id}/result?wait_s=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    writers = [(await server.raw(waits))[1] for _ in range(number)]

    async def all_wait() -> Any:
        waiting = len(server.supervisor._registry.get(job_id).end_waiters)
        return waiting == number or Pending(waiting)

    await until_async(all_wait, "every request waits for the job")
    return writers


async def test_one_connection_too_many_is_told_so(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(connections_max=3)) as server:
        writers = await busy(server, tmp_path / "gate", 3)
        problem = problem_in(await ask(server, HEALTH), 503, "too_many_connections")
        assert problem["retryable"] and "server.connections_max" in problem["detail"]
        writers.pop().close()

        async def lets_in() -> Any:
            answer = await server.client.get("/health")
            return answer.status_code == 200 or Pending(answer.text)

        await until_async(lets_in, "the place that was left is given to the next")
        for writer in writers:
            writer.close()
        (tmp_path / "gate").touch()


async def test_the_connection_that_was_idle_longest_makes_room(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(connections_max=3)) as server:
        held = [await server.raw(start) for start in (b"", b"GET /health HT", HEALTH)]
        await held[2][0].readuntil(b"healthy")
        for number in range(3):  # the oldest goes for each that comes: one that never sent a request, too
            held.append(await server.raw(HEALTH))
            assert (await held[-1][0].readline()).startswith(b"HTTP/1.1 200")
            assert b"HTTP" not in (await held[number][0].read()), "it is closed without a word"
        for _, writer in held:
            writer.close()


async def test_of_a_flood_of_connections_most_are_only_closed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bounded_protocol, "LINGER_S", 600.0)  # those that were told so are still there at the last one
    async with start_server(http=HttpSettings(connections_max=1)) as server:
        (writer,) = await busy(server, tmp_path / "gate", 1)
        held = [await server.raw(b"") for _ in range(LINGERING_MAX + 20)]
        reader, last = await server.raw(HEALTH)
        with pytest.raises(ConnectionError):
            assert await reader.read() == b""
            raise ConnectionResetError  # an end without a word is what we want as well
        for each in (*(each for _, each in held), last, writer):
            each.close()
        (tmp_path / "gate").touch()


async def test_idle_connections_do_not_shut_an_operator_out(start_server: StartServer) -> None:
    key = ApiKey("oncall", "operate", "oncall-0123456789abcdef")
    async with start_server(http=HttpSettings(connections_max=20, keys=(key,)), workers=1) as server:
        operator = [await server.raw(request_of(key, "GET", "/v1/info"))]
        await operator[0][0].readuntil(b"version")
        job_id = (await server.supervisor.submit(Submission("spin", b"{}"))).job_id
        hostile = [await server.raw(HEALTH) for _ in range(200)]
        reader, writer = operator[0]  # it has a key, so it is still there
        writer.write(request_of(key, "GET", f"/v1/jobs/{job_id}"))
        await reader.readuntil(job_id.encode())
        cancel = request_of(key, "DELETE", f"/v1/jobs/{job_id}?grace_s=0", "Connection: close")
        assert b'"cancelled"' in await ask(server, cancel)
        for _, each in (*hostile, *operator):
            each.close()


async def test_an_operator_gets_in_though_every_connection_is_busy(start_server: StartServer, tmp_path: Path) -> None:
    oncall, ann = (
        ApiKey("oncall", "operate", "oncall-0123456789abcdef"),
        ApiKey("ann", "submit", "ann-0123456789abcdef"),
    )
    async with start_server(http=HttpSettings(connections_max=4, keys=(oncall, ann)), workers=1) as server:
        job_id = await accepted(server, tmp_path / "never")
        waits = request_of(ann, "GET", f"/v1/jobs/{job_id}/result?wait_s=60")
        held = [await server.raw(waits) for _ in range(4)]

        async def all_wait() -> Any:
            return len(server.supervisor._registry.get(job_id).end_waiters) == 4 or Pending("not yet")

        await until_async(all_wait, "every request waits for the job")
        refused = problem_in(await ask(server, request_of(ann, "GET", "/v1/info")), 503, "too_many_connections")
        assert refused["retryable"]
        assert (await ask(server, HEALTH[:-2] + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        cancel = request_of(oncall, "DELETE", f"/v1/jobs/{job_id}?grace_s=0", "Connection: close")
        assert b'"cancelled"' in await ask(server, cancel)
        for _, writer in held:
            writer.close()


def request_of(key: ApiKey, method: str, target: str, *headers: str) -> bytes:
    lines = (f"{method} {target} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key.key}", *headers, "", "")
    return "\r\n".join(lines).encode()


async def test_one_address_does_not_take_the_connections_of_others(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(connections_max=20, connections_per_address_max=2)) as server:
        writers = await busy(server, tmp_path / "gate", 2)
        problem_in(await ask(server, HEALTH), 503, "too_many_connections")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        writer.write(HEALTH)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        (tmp_path / "gate").touch()
        for each in (*writers, writer):
            each.close()


async def test_a_key_leaves_connections_to_others(start_server: StartServer, tmp_path: Path) -> None:
    """One key's streams and waits took all of them."""
    ann, bob, oncall = (
        ApiKey(name, role, f"{name}-0123456789abcdef")
        for name, role in (("ann", "submit"), ("bob", "read"), ("oncall", "operate"))
    )
    async with start_server(http=HttpSettings(connections_max=8, keys=(ann, bob, oncall)), workers=1) as server:
        job_id = await accepted(server, tmp_path / "never")
        waits = request_of(ann, "GET", f"/v1/jobs/{job_id}/result?wait_s=60")
        held = [await server.raw(waits) for _ in range(4)]

        async def all_wait() -> Any:
            return len(server.supervisor._registry.get(job_id).end_waiters) == 4 or Pending("not yet")

        await until_async(all_wait, "every request waits for the job")
        closing = "Connection: close"
        refused = problem_in(
            await ask(server, request_of(ann, "GET", "/v1/info", closing)), 503, "too_many_connections"
        )
        assert refused["retryable"] and "server.connections_per_key_max" in refused["detail"]
        for key in (bob, oncall):
            assert (await ask(server, request_of(key, "GET", "/v1/info", closing))).startswith(b"HTTP/1.1 200")
        cancel = request_of(ann, "DELETE", f"/v1/jobs/{job_id}?grace_s=0", closing)
        assert b'"cancelled"' in await ask(server, cancel)
        for reader, _ in held:
            await reader.readuntil(b"no_result")
        assert (await ask(server, request_of(ann, "GET", "/v1/info", closing))).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()


async def test_streams_leave_room_for_cancels(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(connections_max=10), workers=1) as server, AsyncExitStack() as streams:
        job_id = await server.submit("gated", gates=[str(tmp_path / "never")])
        request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        await server.client.aclose()  # its own connection counts too
        for _ in range(9):
            reader, writer = await server.raw(request)
            streams.callback(writer.close)
            await reader.readuntil(b"event: started")
        closing = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        problem = problem_in(await ask(server, closing), 503, "too_many_connections")
        assert problem["retryable"] and problem["streams"] == 9
        cancel = f"DELETE /v1/jobs/{job_id}?grace_s=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await ask(server, cancel.encode())).startswith(b"HTTP/1.1 200")
        assert (await ask(server, closing)).startswith(b"HTTP/1.1 200")  # the others have ended meanwhile


# ── headers ──


@pytest.mark.parametrize("start", [b"", b"GET", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_header_that_does_not_come(start_server: StartServer, start: bytes) -> None:
    async with start_server(http=SLOW) as server:
        assert problem_in(await ask(server, start), 408, "slow_request")["retryable"]


async def test_a_header_that_comes_byte_by_byte(start_server: StartServer) -> None:
    async with start_server(http=SLOW) as server:
        reader, writer = await server.raw(b"GET /health HTTP/1.1\r\nX: ")

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0)

        dripping = asyncio.create_task(drip())
        try:
            answer = await reader.read()
        finally:
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            writer.close()
        assert answer.split()[1] in (b"408", b"431")


@pytest.mark.parametrize(("start", "last"), [(b"GET", b"HTTP/1.1 408"), (b"\r\n", b"")])
async def test_the_second_header_of_a_connection_has_its_time_too(
    start_server: StartServer, start: bytes, last: bytes
) -> None:
    async with start_server(http=SLOW) as server:
        reader, writer = await server.raw(HEALTH)
        await reader.readuntil(b"healthy")
        writer.write(start)  # uvicorn's own timer ends here
        assert last in await reader.read()
        writer.close()


async def test_what_is_sent_behind_a_request_does_not_cut_its_answer(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(header_timeout_s=0.5, ping_s=0.8)) as server:
        gate = tmp_path / "gate"
        job_id = await accepted(server, gate)
        stream = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\nGET"
        reader, writer = await server.raw(stream.encode())
        await reader.readuntil(b": ping\n\n")  # the header's time is over
        gate.touch()
        answer = await reader.read()
        assert b"event: completed" in answer and answer.index(b"HTTP/1.1 408") > answer.index(b"event: completed")
        writer.close()


async def test_a_reader_that_leaves_is_noticed_with_a_request_behind_its_own(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Only that request was told, which had not begun: the job of the stream went on to its end."""
    async with start_server(http=HttpSettings(ping_s=600)) as server:  # what is written tells it, too
        for is_later in (False, True):
            submission = Submission("slow_clean", b'{"gate": "/"}', stop_when_client_leaves=True)
            job_id = (await server.supervisor.submit(submission)).job_id
            stream = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            reader, writer = await server.raw(stream if is_later else stream + HEALTH)
            await reader.readuntil(b"event: token")
            if is_later:  # what stands behind it is not read: it is left to the kernel

                def waits() -> Any:
                    return any(each.pipeline for each in server.connections) or Pending("none has come")

                writer.write(HEALTH)
                await until_async(waits, "a request waits behind the stream")
            writer.close()
            record = await server.record(job_id, wait_s=60)
            assert record["state"] == "cancelled" and record["error"]["by"] == "client_gone", is_later
    assert "Exception in ASGI application" not in caplog.text


async def test_a_header_of_any_size_is_not_kept(server: Server) -> None:
    reader, writer = await server.raw(b"GET /health HTTP/1.1\r\nX: ")
    writer.write(b"x" * (HEADER_BYTES_MAX + 300_000))
    problem_in(await reader.read(), 431, "header_too_large")
    writer.close()


async def test_a_long_header_is_taken(server: Server) -> None:
    answer = await server.client.get("/health", headers={"x": "x" * (HEADER_BYTES_MAX - 1000)})
    assert answer.status_code == 200


TOO_LARGE = {
    "bytes at once": b"GET /health HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * HEADER_BYTES_MAX),
    "fields": b"GET /health HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (b"a:\r\n" * FIELDS_MAX),
}


@pytest.mark.parametrize("header", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_header_that_takes_long_to_read_is_not_read(server: Server, header: bytes) -> None:
    """A header that came at once had no bound."""
    problem_in(await ask(server, header + HEALTH), 431, "header_too_large")


async def test_a_query_of_many_parameters_is_not_parsed(server: Server) -> None:
    query = b"&".join([b"a"] * (PARAMETERS_MAX + 1))
    problem_in(await ask(server, b"GET /health?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % query), 400, "malformed")


async def test_a_request_of_openais_clients_that_is_not_read_gets_an_error_of_their_form(server: Server) -> None:
    query = b"&".join([b"a"] * (PARAMETERS_MAX + 1))
    for path in (b"/v1/models", b"/v1/messages"):
        for rest, status, code in (
            (b"?%b HTTP/1.1\r\n" % query, 400, "malformed"),
            (b" HTTP/1.1\r\nX: %b\r\n" % (b"x" * HEADER_BYTES_MAX), 431, "header_too_large"),
        ):
            answer = await ask(server, b"GET %b%bHost: localhost\r\n\r\n" % (path, rest))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status) and b"content-type: application/json\r\n" in head
            assert json.loads(body)["error"]["code"] == code


async def test_what_waits_behind_an_answer_is_bounded(start_server: StartServer, tmp_path: Path) -> None:
    """A hundred requests with headers of the largest size were kept, for each connection."""
    large = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * (HEADER_BYTES_MAX - 1000))
    async with start_server(workers=1) as server:
        (writer,) = await busy(server, tmp_path / "gate", 1)
        (connection,) = server.connections
        writer.write(large * 40)

        async def waits() -> Any:
            return len(connection.pipeline) > 0 or Pending("none has come")

        await until_async(waits, "a request waits behind the one that is not answered")
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(connection.pipeline) == 1, "the others are left to the kernel"
        (tmp_path / "gate").touch()
        writer.close()


async def test_of_many_small_requests_that_come_at_once_few_are_parsed(server: Server) -> None:
    """They cost 20 µs each, and one read brought thousands."""
    small = b"GET / HTTP/1.1\r\n\r\n"
    reader, writer = await server.raw(small * 500)
    answers = b""
    with suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            answers += part
    writer.close()
    assert answers.count(b"HTTP/1.1") <= 1 + PIPELINED_MAX


@pytest.mark.parametrize(
    "request_line", [b"nonsense\r\n\r\n", b"GET /health HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"]
)
async def test_what_is_not_http(server: Server, request_line: bytes) -> None:
    problem_in(await ask(server, request_line), 400, "malformed")


async def test_an_upgrade_to_websocket_is_an_ordinary_request(server: Server) -> None:
    upgrade = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    reader, writer = await server.raw(upgrade)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


# ── bodies ──


def post(length: int, body: bytes) -> bytes:
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


async def test_a_body_that_does_not_come(start_server: StartServer) -> None:
    async with start_server(http=SLOW_BODY) as server:
        problem = problem_in(await ask(server, post(100, b'{"type": ')), 408, "slow_request")
        assert problem["retryable"] and "body" in problem["detail"]
        assert (await server.client.get("/v1/jobs")).json()["jobs"] == []


async def test_a_body_that_nobody_waits_for_does_not_hold_its_connection(start_server: StartServer) -> None:
    async with start_server(http=SLOW_BODY) as server:
        reader, writer = await server.raw(HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n"))
        await reader.readuntil(b"415")  # answered before the body
        writer.write(b"1234")
        assert b"HTTP/1.1" not in await reader.read()
        writer.close()


async def test_a_client_that_stays_has_no_deadline_after_its_body(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(body_timeout_s=0.1, ping_s=0.5)) as server:
        gate = tmp_path / "gate"
        job_id = await accepted(server, gate)
        head = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        reader, writer = await server.raw((head + body).encode())
        await reader.readuntil(b": ping\n\n")  # the body's time is over
        gate.touch()
        assert b"event: completed" in await reader.read()
        writer.close()


async def test_a_reader_whose_body_does_not_come_has_left(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with start_server(http=SLOW_BODY) as server:
        submission = Submission("slow_clean", b'{"gate": "/"}', stop_when_client_leaves=True)
        job_id = (await server.supervisor.submit(submission)).job_id
        async with aclosing(server.supervisor.events(job_id)) as events:
            assert (await anext(events))[0].name == "started"  # before the body's time begins
        head = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = await ask(server, (head + "Content-Length: 9\r\n\r\n{").encode())
        assert answer.startswith(b"HTTP/1.1 200") and b"event: started" in answer
        record = await server.record(job_id, wait_s=60)
        assert record["state"] == "cancelled" and record["error"]["by"] == "client_gone"
        assert "Exception in ASGI application" not in caplog.text


# ── what stands between bodies ──

CHUNKED = (
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize("endless", [b"a%d: b\r\n", b"%d" * 50], ids=["trailers", "one trailer that does not end"])
async def test_trailers_without_end_are_cut_off(server: Server, endless: bytes) -> None:
    _, writer = await server.raw(CHUNKED + b"0\r\n" + (b"a: " if b":" not in endless else b""))
    sent = 0
    with pytest.raises(ConnectionError):
        while sent < 64 * HEADER_BYTES_MAX:
            part = b"".join(endless.replace(b"%d", b"%d" % number) for number in range(1000))
            writer.write(part)
            await writer.drain()
            sent += len(part)
            await server.client.get("/health")  # the server has read what it reads
    writer.close()


async def test_requests_that_are_sent_without_end_are_cut_off(server: Server) -> None:
    reader, writer = await server.raw(b"")
    sent = 0
    with pytest.raises(ConnectionError):
        while sent < 100_000:
            writer.write(HEALTH * 1000)
            await writer.drain()
            await reader.read(1 << 16)  # it reads its answers, as fast as they come
            sent += 1000
    writer.close()
    assert sent < 100_000


async def test_a_body_in_the_smallest_chunks_is_taken(server: Server) -> None:
    body = json.dumps({"type": "echo", "input": {"text": "x" * 20_000}}).encode()
    chunks = b"".join(b"1\r\n%b\r\n" % body[place : place + 1] for place in range(len(body))) + b"0\r\n\r\n"
    assert len(chunks) > HEADER_BYTES_MAX
    reader, writer = await server.raw(CHUNKED + chunks)
    assert b" 202 " in await reader.readline()
    writer.close()


async def use_up_quick_refusals(server: Server, wrong: bytes) -> None:
    """Have so many wrong keys refused that the next refusal waits."""
    reader, writer = await server.raw(b"")
    for _ in range(FREE):
        writer.write(wrong)
        await reader.readuntil(b"not valid")
    writer.close()


async def test_refusals_that_wait_make_room_for_others(start_server: StartServer) -> None:
    """Who has no key held all connections with wrong ones: each kept one for a second."""
    key, oncall = (ApiKey(role, role, f"{role}-0123456789abcdef") for role in ("submit", "operate"))
    http = HttpSettings(connections_max=3, connections_per_address_max=3, keys=(key, oncall), failed_key_delay_s=3600)
    wrong = request_of(replace(key, key="wrong-0123456789abcdef"), "GET", "/v1/info")
    async with start_server(http=http, workers=1) as server:
        await use_up_quick_refusals(server, wrong)
        held = [(await server.raw(wrong))[1] for _ in range(3)]

        def all_wait() -> int | Pending:
            waiting = sum(not each._is_idle for each in server.connections)
            return waiting if waiting == 3 else Pending(waiting)

        await until_async(all_wait, "all connections have a refusal that waits")
        answer = await ask(server, request_of(key, "GET", "/v1/info", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        for writer in held:
            writer.close()


async def test_no_refusal_waits_on_a_connection_that_is_reserved(start_server: StartServer, tmp_path: Path) -> None:
    key, oncall = (ApiKey(role, role, f"{role}-0123456789abcdef") for role in ("submit", "operate"))
    http = HttpSettings(connections_max=2, connections_per_address_max=2, keys=(key, oncall), failed_key_delay_s=3600)
    wrong = request_of(replace(key, key="wrong-0123456789abcdef"), "GET", "/v1/info")
    async with start_server(http=http, workers=1) as server:
        await use_up_quick_refusals(server, wrong)
        job_id = (await server.supervisor.submit(Submission("spin", b"{}"))).job_id
        streams = [await server.raw(request_of(oncall, "GET", f"/v1/jobs/{job_id}/stream")) for _ in range(2)]
        for stream, _ in streams:
            await stream.readuntil(b"200 OK")
        problem_in(await ask(server, wrong), 401, "unauthorized")
        for _, each in streams:
            each.close()
