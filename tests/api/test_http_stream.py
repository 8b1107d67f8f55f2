"""A job's events as a client sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from api_server import OwnServer, Server, StartServer, problem_of
from httpx_sse import aconnect_sse
from sse_starlette.sse import AppStatus
from support.looped_cases import cases
from support.waiting import Pending, until_async

from killable.api.app import create_app
from killable.api.client.async_client import AsyncClient
from killable.api.http.app_settings import HttpSettings
from killable.api.http.writes import WRITE_BYTES
from killable.supervisor.jobs import durable_ends
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX
from killable.supervisor.journal.journal_file import JournalFile, Note
from killable.supervisor.models import TERMINAL_STATES

TCP_REPAIR = 19
"""linux/tcp.h; Python's socket module has no name for it."""

ENDINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, str]] = {
    # type, input, limits; terminal event, start of the marker
    "completed": ("count", {"n": 3}, {}, "completed", "[DONE]"),
    "no tokens": ("echo", {}, {}, "completed", "[DONE]"),
    "raised": ("fails", {"message": "one\ntwo\r\n\r\ndata: [DONE]"}, {}, "failed", "[ERROR] "),
    "exited": ("leaves", {"exit_code": 3}, {}, "failed", "[ERROR] "),
    "exited with 0": ("leaves", {"exit_code": 0}, {}, "failed", "[ERROR] "),
    "ran too long": ("spin", {}, {"run_s": 0.2, "grace_s": 0}, "timed_out", "[ERROR] timeout.run: "),
    "native, ran too long": ("sleep_native", {}, {"run_s": 0.2, "grace_s": 0}, "timed_out", "[ERROR] timeout.run: "),
}


@pytest.mark.row("A5")
async def test_tokens_come_as_they_are_produced(server: Server, tmp_path: Path) -> None:
    gates = [tmp_path / "second", tmp_path / "third"]
    job_id = await server.submit("gated", gates=[str(gate) for gate in gates])
    tokens = []
    async with aconnect_sse(server.client, "GET", f"/v1/jobs/{job_id}/stream") as source:
        headers = source.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-store" and headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in headers
        async for event in source.aiter_sse():
            assert event.retry in (None, 1000)
            if event.event == "token":
                tokens.append(event.json()["text"])
                if gates:
                    gates.pop(0).touch()  # only now can the next one be produced
    assert tokens == ["first", "second", "third"]


async def test_what_came_before_an_end_is_read_while_the_disk_has_not_got_that(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, write = threading.Event(), JournalFile.write

    def write_when_it_works(file: JournalFile, notes: Sequence[Note]) -> None:
        assert works.wait(60)
        write(file, notes)

    monkeypatch.setattr(JournalFile, "write", write_when_it_works)
    monkeypatch.setattr(durable_ends, "READ_S", 600.0)
    monkeypatch.setattr(durable_ends, "TELL_S", 600.0)
    works.set()
    async with start_server(workers=1, journal=str(tmp_path / "journal")) as server:
        gate = tmp_path / "gate"
        job_id = await server.submit("gated", gates=[str(gate)])
        await server.read(job_id, until="token")
        works.clear()
        gate.touch()

        async def is_over() -> bool | Pending:
            counts = await server.supervisor.scraping.counts()
            return counts["running"] == 0 or Pending(counts)

        try:
            await until_async(is_over, "its worker is free")
            async with aconnect_sse(server.client, "GET", f"/v1/jobs/{job_id}/stream") as source:
                events = source.aiter_sse()
                names = [(await anext(events)).event for _ in range(3)]
                assert names == ["started", "token", "token"]
                works.set()
                assert [event.event async for event in events] == ["completed"]
        finally:
            works.set()
        last = (await server.record(job_id))["events"] - 1
        assert (await server.client.get(f"/v1/jobs/{job_id}/stream?after={last}")).status_code == 204


async def test_the_wire_is_what_the_contract_shows(server: Server) -> None:
    job_id = await server.submit("say", values=["a"])
    await server.record(job_id, wait_s=60)
    text = (await server.client.get(f"/v1/jobs/{job_id}/stream")).text
    started, token, completed, rest = text.split("\n\n")
    assert started.startswith("retry: 1000\nid: 0\nevent: started\ndata: {") and rest == ""
    assert token == 'id: 1\nevent: token\ndata: {"text":"a"}'
    assert completed.startswith("id: 2\nevent: completed\ndata: {")


@pytest.mark.row("A6")
@pytest.mark.row("A7")
@pytest.mark.row("A9")
@pytest.mark.row("A20")
@cases("ending", ENDINGS)
async def test_one_terminal_event_last_and_one_marker_after_it(server: Server, ending: str) -> None:
    type, input, limits, terminal, marker = ENDINGS[ending]
    job_id = await server.submit(type, members={"limits": limits}, **input)
    seen = await server.read(job_id, markers="true")
    *events, last, unnamed = seen.events
    assert (last.event, unnamed.event) == (terminal, "message")
    assert not {event.event for event in events} & set(TERMINAL_STATES) and events[0].event == "started"
    assert seen.ids == list(range(len(seen.events) - 1))
    assert unnamed.data.startswith(marker) and "\n" not in unnamed.data and unnamed.id == last.id
    assert seen.end["state"] == terminal and seen.end["job_id"] == job_id
    record = await server.record(job_id)
    assert record["state"] == terminal and record["error"] == seen.end["error"]
    assert record["certificate"] | {"slot_ready": 0} == seen.end["certificate"] | {"slot_ready": 0}
    assert (await server.read(job_id)).markers == []


@pytest.mark.row("A8")
async def test_a_cancelled_job_says_so(server: Server) -> None:
    job_id = await server.submit("slow_clean", gate="/", members={"limits": {"grace_s": 10}})
    reading = asyncio.create_task(server.read(job_id, markers="true"))
    await server.read(job_id, until="token")
    assert (await server.client.delete(f"/v1/jobs/{job_id}")).status_code == 200
    seen = await reading
    assert seen.names == ["started", "token", "cancelled", "message"] and seen.markers == ["[CANCELLED]"]
    assert seen.end["partial"] == "cleaned" and seen.end["error"]["code"] == "cancelled"


@pytest.mark.row("A18")
async def test_an_unknown_job_has_no_stream(server: Server) -> None:
    problem_of(await server.client.get("/v1/jobs/job-0/stream"), 404, "unknown_job")


@pytest.mark.row("A20")
@pytest.mark.row("A21")
async def test_all_that_a_job_can_say(server: Server) -> None:
    seen = await server.read(await server.submit("reports"))
    assert seen.names == ["started", "progress", "checkpoint", "token", "completed"]
    assert [event.json() for event in seen.events][3] == {"value": {"half": 0.5}}
    assert all(event.json() for event in seen.events)


async def test_a_checkpoint_may_be_any_value_and_its_data_are_an_object(server: Server) -> None:
    values = [[1, 2], 3, "text", None, True, {"step": 1}]
    seen = await server.read(await server.submit("checkpoints", values=values))
    told = [event.json() for event in seen.events if event.event == "checkpoint"]
    assert told == [*({"value": value} for value in values[:-1]), {"step": 1}]
    url = f"http://127.0.0.1:{server.port}"
    async with AsyncClient(url) as client, client.submit("checkpoints", {"values": values}) as job:
        assert [event.data async for event in job.events() if event.name == "checkpoint"] == told
        assert await job.result() == "done"


@pytest.mark.row("A22")
async def test_pings_keep_an_idle_stream_and_mean_nothing(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(http=HttpSettings(ping_s=0.05)) as server:
        gate = tmp_path / "gate"
        job_id = await server.submit("gated", gates=[str(gate)])
        text = ""
        async with server.client.stream("GET", f"/v1/jobs/{job_id}/stream?markers=true") as answer:
            async for part in answer.aiter_text():
                text += part
                if text.count(": ping\n\n") >= 3 and not gate.exists():
                    assert "[DONE]" not in text and "event: completed" not in text
                    gate.touch()
        assert text.endswith("data: [DONE]\n\n")


@pytest.mark.row("A23")
async def test_a_reader_resumes_exactly_where_it_was(server: Server) -> None:
    job_id = await server.submit("count", n=20)
    await server.record(job_id, wait_s=60)
    whole = await server.read(job_id)
    for last in (0, 7, 20):
        again = await server.read(job_id, headers={"last-event-id": str(last)})
        assert again.wire == whole.wire[last + 1 :]
        assert (await server.read(job_id, after=last)).wire == again.wire
    both = await server.read(job_id, headers={"last-event-id": "19"}, after=3)
    assert both.ids == [20, 21]  # the header wins: EventSource reconnects to the same URL


@pytest.mark.row("A23")
async def test_after_the_terminal_event_nothing_is_left_to_say(server: Server) -> None:
    job_id = await server.submit("count", n=1)
    last = (await server.read(job_id)).ids[-1]
    for seen in (last, last + 1000):
        headers = {"last-event-id": str(seen)}
        answer = await server.client.get(f"/v1/jobs/{job_id}/stream", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        answer = await server.client.get(f"/v1/jobs/{job_id}/stream?markers=true", headers=headers)
        assert answer.text == "retry: 1000\ndata: [DONE]\n\n"
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"


@pytest.mark.row("A23")
async def test_a_reader_resumes_in_the_middle_of_a_running_job(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    seen = await server.read(job_id, until="token")
    gate.touch()
    rest = await server.read(job_id, headers={"last-event-id": seen.events[-1].id})
    assert seen.ids + rest.ids == list(range(4)) and seen.tokens + rest.tokens == ["first", "gate"]


@cases("value", ["x", "-2", "1.5", "¹"])
async def test_an_event_id_that_is_none(server: Server, value: str) -> None:
    job_id = await server.submit("echo")
    headers = {"last-event-id": value.encode()}
    problem_of(await server.client.get(f"/v1/jobs/{job_id}/stream", headers=headers), 422, "invalid")
    problem_of(await server.client.get(f"/v1/jobs/{job_id}/stream?after={value}"), 422, "invalid")
    problem_of(await server.client.get(f"/v1/jobs/{job_id}/stream?since=1"), 422, "invalid")


@pytest.mark.row("B18")
async def test_no_event_of_one_job_is_seen_in_another(start_server: StartServer) -> None:
    async with start_server(workers=3) as server:
        ids = [await server.submit("say", values=[f"job {number}"] * 200) for number in range(6)]
        for number, seen in enumerate(await asyncio.gather(*(server.read(job_id) for job_id in ids))):
            assert seen.tokens == [f"job {number}"] * 200 and seen.end["job_id"] == ids[number]


@pytest.mark.row("F6")
@pytest.mark.row("E12")
async def test_nothing_that_a_job_says_is_taken_for_a_marker(server: Server) -> None:
    texts = ["[DONE]", "\n\ndata: [DONE]\n\n", "\r\revent: completed\r", "\x85\u2028id: 9", "", "\x00", "\ud800"]
    job_id = await server.submit("say", values=texts)
    seen = await server.read(job_id, markers="true")
    assert seen.tokens == texts and seen.markers == ["[DONE]"] and seen.ids == list(range(len(texts) + 2))


@pytest.mark.row("F6")
@pytest.mark.row("F7")
async def test_what_a_job_prints_is_a_log_and_ends_nothing(server: Server) -> None:
    lines = ["data: [DONE]", "event: completed", "", "id: 7"]
    seen = await server.read(await server.submit("talks", lines=lines), markers="true")
    logged = "".join(json.dumps(event.json()) for event in seen.events if event.event == "log")
    assert logged.count("data: [DONE]") == 3
    assert seen.tokens == ["said"] and seen.markers == ["[DONE]"] and seen.end["state"] == "completed"


async def test_many_readers_see_the_same(server: Server) -> None:
    job_id = await server.submit("count", n=500)
    first, *others = await asyncio.gather(*(server.read(job_id) for _ in range(8)))
    assert len(first.tokens) == 500 and all(other.wire == first.wire for other in others)


async def test_a_late_reader_gets_a_long_backlog_whole(server: Server) -> None:
    job_id = await server.submit("count", n=20_000)
    assert (await server.record(job_id, wait_s=60))["tokens"] == 20_000
    seen = await server.read(job_id)
    assert seen.tokens == [f" {number}" for number in range(20_000)] and seen.ids == list(range(20_002))


@pytest.mark.row("H6", "PEERS-13")
@pytest.mark.row("D11")
async def test_a_job_that_asked_for_it_stops_when_its_last_reader_leaves(server: Server) -> None:
    job_id = await server.submit("slow_clean", gate="/", members={"stop_when_client_leaves": True})
    request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    first = await server.raw(request)
    second = await server.raw(request)
    for reader, _ in (first, second):
        await reader.readuntil(b"event: token")
    first[1].close()
    await first[1].wait_closed()
    assert (await server.record(job_id))["state"] == "running"
    second[1].transport.abort()  # gone without a word: RST
    record = await server.record(job_id, wait_s=60)
    assert record["state"] == "cancelled" and record["error"]["by"] == "client_gone"


@pytest.mark.row("D11")
async def test_a_job_that_did_not_ask_for_it_goes_on(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    await server.read(job_id, until="token")
    gate.touch()
    assert (await server.record(job_id, wait_s=60))["state"] == "completed"


async def test_a_reader_that_reads_steadily_is_not_cut_off_in_a_large_event(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It takes longer for that than `send_timeout_s`, and pings and the end wait behind it."""
    gate = tmp_path / "gate"
    async with start_server(http=HttpSettings(send_timeout_s=5, ping_s=0.2)) as server:
        job_id = await server.submit("flood", n=1, chars=7 << 20, gate=str(gate))
        request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        reader, writer = await server.raw(request, receive_bytes=1 << 16)
        began, read = time.monotonic(), bytearray()
        while len(read) < 7 << 20:
            due = began + len(read) / (1 << 20)  # 1 MiB a second
            await until_async(lambda due=due: time.monotonic() >= due, "it is this piece's turn")  # type: ignore[misc]
            piece = await reader.read(1 << 16)
            assert piece, f"cut off after {len(read)} bytes"
            read += piece
        gate.touch()
        while b"event: completed" not in read[-4096:]:
            piece = await reader.read(1 << 16)
            assert piece, "cut off before the end"
            read += piece
        writer.close()
        await writer.wait_closed()


@pytest.mark.row("B19")
async def test_a_reader_that_does_not_read_is_cut_off_and_slows_nobody(
    start_server: StartServer, tmp_path: Path
) -> None:
    async with start_server(http=HttpSettings(send_timeout_s=4)) as server:
        # More than the buffers of both sockets hold; then it waits for ever, so that only the reader's leaving ends it.
        input = {"n": 8_000, "chars": 1000, "gate": str(tmp_path / "never")}
        job_id = await server.submit("flood", members={"input": input, "stop_when_client_leaves": True})
        request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        reader, writer = await server.raw(request, receive_bytes=1 << 16)
        other = await server.submit("count", n=1000)
        assert len((await server.read(other)).tokens) == 1000
        record = await server.record(job_id, wait_s=60)
        assert record["state"] == "cancelled" and record["error"]["by"] == "client_gone"
        cut = b""
        with contextlib.suppress(ConnectionResetError):  # what the kernel still held is given up after the same time
            while piece := await reader.read(1 << 16):
                cut += piece
        assert b"event: token" in cut and b"event: cancelled" not in cut
        last = cut[: cut.rindex(b"\nevent: ")].rsplit(b"id: ", 1)[1].decode()
        rest = await server.read(job_id, headers={"last-event-id": last})
        assert rest.ids == list(range(int(last) + 1, record["tokens"] + 2)) and rest.names[-1] == "cancelled"
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


@pytest.mark.row("B19")
async def test_a_reader_that_does_not_read_costs_bounded_memory(start_server: StartServer, tmp_path: Path) -> None:
    """It is not cut off, however long a busy machine takes to produce everything."""
    async with start_server(http=HttpSettings(send_timeout_s=3600)) as server:
        gate = tmp_path / "gate"
        job_id = await server.submit("flood", n=30_000, chars=1000, gate=str(gate))
        await server.client.aclose()
        await until_async(lambda: not server.connections, "its connection is gone")
        reader, writer = await server.raw(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"event: started")
        (connection,) = server.connections

        async def is_stuck() -> Any:
            record = await server.supervisor.get(job_id)
            return (record.tokens == 30_000 and connection.flow.write_paused) or Pending(
                (record.tokens, len(server.connections))
            )

        await until_async(is_stuck, "everything is produced and the reader's buffers are full")
        assert connection.transport.get_write_buffer_size() <= 3 * WRITE_BYTES
        gate.touch()
        writer.close()


@pytest.mark.row("D11")
async def test_a_reader_that_left_without_a_word_is_noticed_by_the_ping(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(ping_s=0.1)) as server:
        job_id = await server.submit("slow_clean", gate="/", members={"stop_when_client_leaves": True})
        reader, writer = await server.raw(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"event: token")
        await vanish(writer)
        record = await server.record(job_id, wait_s=60)
        assert record["state"] == "cancelled" and record["error"]["by"] == "client_gone"


@pytest.mark.own_server
@pytest.mark.row("D11")
async def test_a_machine_that_has_gone_is_given_up_by_the_kernel(server: OwnServer) -> None:
    _, writer = await server.raw(b"")

    async def accepted() -> Any:
        return next(iter(server.connections), None)

    connection = await until_async(accepted, "the server has the connection")
    sock = connection.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == HttpSettings().send_timeout_s * 1000
    writer.close()


async def vanish(writer: asyncio.StreamWriter) -> None:
    """Close a socket without telling the other side (TCP_REPAIR, which CRIU uses), as a machine that lost its power."""
    sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        pytest.skip("needs CAP_NET_ADMIN")
    finally:
        sock.close()
        writer.close()
        await writer.wait_closed()


async def taken(app: Any, job_id: str, send: Callable[[Any], Awaitable[None]], route: str = "stream") -> None:
    """Have an application answer a stream's request, or that of another route, to a reader that is this `send`, and
    stays.
    """

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": f"/v1/jobs/{job_id}/{route}", "query_string": b""}
    await app(scope | {"headers": [(b"host", b"localhost")]}, receive, send)


@pytest.mark.own_server
@pytest.mark.row("A20")
async def test_what_is_ready_together_goes_out_in_one_write(server: OwnServer) -> None:
    job_id = await server.submit("count", n=1000)
    await server.record(job_id, wait_s=60)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await taken(create_app(server.supervisor), job_id, send)
    start, *pieces, end = sent
    assert start["status"] == 200 and not end["body"] and not end["more_body"]
    assert len(pieces) == 1 and pieces[0]["body"].count(b"event: token") == 1000


@pytest.mark.own_server
@pytest.mark.parametrize(("tokens", "needs_tasks"), [(1000, False), (5000, True)], ids=["a write", "more"])
async def test_what_is_left_of_a_job_that_has_ended_needs_no_tasks_if_it_is_a_write(
    server: OwnServer, tokens: int, needs_tasks: bool
) -> None:
    job_id = await server.submit("count", n=tokens)
    await server.record(job_id, wait_s=60)
    before, during = asyncio.all_tasks(), set[asyncio.Task[Any]]()
    body = b""

    async def send(message: Any) -> None:
        nonlocal body
        during.update(asyncio.all_tasks() - before)
        body += message.get("body", b"")

    await taken(create_app(server.supervisor), job_id, send)
    assert body.count(b"event: token") == tokens and body.count(b"event: completed") == 1
    assert (len(body) > WRITE_BYTES) == needs_tasks == bool(during)


@pytest.mark.own_server
@pytest.mark.parametrize("route", ["stream", "output"])
async def test_a_crowd_of_late_readers_goes_on_by_turns(server: OwnServer, route: str) -> None:
    """Their sockets take all, so that none waits by itself: each would write in each turn of the loop."""
    job_id = await server.submit("count", n=20_000)
    await server.record(job_id, wait_s=60)
    without_pings = HttpSettings(ping_s=600)  # 30 readers that are slow would all write one in a turn
    app, turn, writes = create_app(server.supervisor, without_pings), 0, Counter[int]()

    async def send(message: Any) -> None:
        writes[turn] += bool(message.get("body")) and message.get("more_body", False)

    reading = asyncio.gather(*(taken(app, job_id, send, route) for _ in range(30)))
    while not reading.done():
        turn += 1
        await asyncio.sleep(0)
    await reading
    assert writes.total() == 30 * 20 and max(writes.values()) <= 2 * WAKES_MAX + 1


@pytest.mark.own_server
@pytest.mark.row("A22")
async def test_pings_stand_between_events_and_before_the_end(server: OwnServer) -> None:
    job_id = await server.submit("flood", n=2, chars=1 << 20)
    await server.record(job_id, wait_s=60)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0.03)
        sent.append(message)

    await taken(create_app(server.supervisor, HttpSettings(ping_s=0.01)), job_id, send)
    start, *pieces, end = sent
    assert start["type"] == "http.response.start" and not end["more_body"]
    assert all(len(piece["body"]) <= WRITE_BYTES and piece["more_body"] for piece in pieces)
    *events, rest = b"".join(piece["body"] for piece in pieces).split(b"\n\n")
    assert rest == b"" and {event.split(b": ")[0] for event in events if event != b": ping"} == {b"retry", b"id"}
    assert sum(event != b": ping" for event in events) == 4 and b": ping" in events


@pytest.mark.own_server
@pytest.mark.row("B19")
@pytest.mark.parametrize("taken_before", [0, 1, 2], ids=["nothing", "the header", "all but the end"])
async def test_a_reader_that_takes_nothing_more_is_cut_off_wherever_it_stops(
    server: OwnServer, taken_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await server.submit("echo")
    await server.record(job_id, wait_s=60)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        if len(sent) == taken_before:
            await asyncio.Event().wait()
        sent.append(message)

    app = create_app(server.supervisor, HttpSettings(send_timeout_s=0.1, ping_s=600))
    async with asyncio.timeout(30):
        await taken(app, job_id, send)
    assert len(sent) == taken_before and "reader_disconnected" in caplog.text
    assert app.state.parts.streams.open == 0


@pytest.mark.own_server
async def test_a_server_that_is_told_to_stop_leaves_streams_to_their_jobs(server: Server, tmp_path: Path) -> None:
    """sse-starlette would end them, of all servers of the process: it takes the place of uvicorn's `handle_exit`."""
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    reading = asyncio.create_task(server.read(job_id))
    await server.read(job_id, until="token")
    stranger = uvicorn.Server(uvicorn.Config(server.client, ws="none", log_config=None))
    handler = signal.signal(signal.SIGTERM, stranger.handle_exit)
    try:
        signal.raise_signal(signal.SIGTERM)
        assert stranger.should_exit and not AppStatus.should_exit
        await asyncio.sleep(0.6)  # its watcher looks every half second
        gate.touch()
        assert (await reading).names[-1] == "completed"
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.own_server
async def test_what_a_job_says_is_in_no_log_of_the_package(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await server.read(await server.submit("say", values=["a word that is told to nobody"]))
    assert "a word that is told" not in caplog.text


@pytest.mark.parametrize("asked", ["keep-alive", "close"])
async def test_the_server_alone_says_what_becomes_of_the_connection(server: Server, asked: str) -> None:
    job_id = await server.submit("echo")
    await server.record(job_id, wait_s=60)
    request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: {asked}\r\n\r\n".encode()
    reader, writer = await server.raw(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.count(b"\r\nconnection: ") == head.count(b"\r\nconnection: close\r\n") == (asked == "close")
    writer.close()
