"""Requests over HTTP: POST and GET per second, DELETE beside many streams and beside work, what ended jobs cost.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time

from figure import Figure, spread
from plan import Plan
from samples import Samples
from server import Connection, Server, serving

REQUESTS_PER_S = "POST and GET record by turns, one connection: requests/s"
POST_MS = "POST, one connection, ms"
GET_MS = "GET record, one connection, ms"
IDLE_STREAMS_MB = "1,000 idle streams: added memory, MB"
IDLE_DELETE_MS = "DELETE beside 1,000 idle streams, ms"
LOADED_DELETE_MS = "DELETE beside flooding streams, ms"
KEPT_MB = "1,000 ended jobs of 1,000 tokens: added memory, MB"

IDLE_STREAMS = 1000
KEPT_JOBS = 1000
KEPT_TOKENS = 1000
FLOODS = 2


async def measure_pairs(plan: Plan, results: Samples) -> None:
    """Submit trivial jobs and look each up, one request after the other, on a blocking socket: as little as a client
    can do.
    """
    async with serving(workers=1, queue_jobs_max=100_000) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _pairs(connection, plan.pairs // 10)  # the first ones fill caches
            began = time.monotonic()
            for posted_s, got_s in _pairs(connection, plan.pairs):
                results.add(POST_MS, posted_s * 1000)
                results.add(GET_MS, got_s * 1000)
            results.add(REQUESTS_PER_S, 2 * plan.pairs / (time.monotonic() - began))


def _pairs(connection: socket.socket, number: int) -> list[tuple[float, float]]:
    took = []
    body = b'{"type": "first_token"}'
    head = "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    post = (head % len(body)).encode() + body
    for _ in range(number):
        began = time.monotonic()
        answer = _answer(connection, post)
        posted = time.monotonic()
        address = answer.partition(b"location: ")[2].partition(b"\r\n")[0]
        _answer(connection, b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % address)
        took.append((posted - began, time.monotonic() - posted))
    return took


def _answer(connection: socket.socket, request: bytes) -> bytes:
    """Return a whole 2xx answer."""
    connection.sendall(request)
    answer = b""
    while True:
        answer += connection.recv(1 << 16)
        head, end, content = answer.partition(b"\r\n\r\n")
        if end and len(content) == int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            break
    if answer[9:10] != b"2":
        raise RuntimeError(repr(answer))
    return answer


async def measure_idle_streams(plan: Plan, results: Samples) -> None:
    """Hold many streams of a job that says nothing, then start and kill others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server inherits it
    try:
        async with serving(workers=3, connections_max=4 * IDLE_STREAMS) as server:
            caller = await server.connect()
            job_id = await caller.submit("waits")
            await _first_token(server, job_id)
            for _ in range(plan.deletes):  # what the server needs for this is not the streams'
                await _delete_ms(server, caller)
            before_mb = server.uss_mb
            connections = [await server.connect() for _ in range(IDLE_STREAMS)]
            for connection in connections:
                connection.open_stream(job_id)
            for connection in connections:
                await connection.line_with(b"event: token")
            results.add(IDLE_STREAMS_MB, server.uss_mb - before_mb)
            for _ in range(plan.deletes):
                results.add(IDLE_DELETE_MS, await _delete_ms(server, caller))
            for connection in (*connections, caller):
                await connection.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _first_token(server: Server, job_id: str) -> None:
    connection = await server.connect()
    connection.open_stream(job_id)
    await connection.line_with(b"event: token")
    await connection.close()


async def _delete_ms(server: Server, caller: Connection) -> float:
    """Start a job that computes, kill it, and return how long the answer took that says that it is dead."""
    job_id = await caller.submit("spins")
    await _first_token(server, job_id)
    began = time.monotonic()
    answer = await caller.request("DELETE", f"/v1/jobs/{job_id}?grace_s=0")
    took_ms = (time.monotonic() - began) * 1000
    if answer["status"] != "cancelled":
        raise RuntimeError(f"not dead: {answer}")
    return took_ms


async def measure_loaded_deletes(plan: Plan, results: Samples) -> None:
    """Kill jobs while others flood their streams and clients read all of it."""
    async with serving(workers=FLOODS + 1) as server:
        caller = await server.connect()
        floods = []
        for _ in range(FLOODS):
            flood_id = await caller.submit("emits", tokens=10**8)
            reader = await server.connect()
            reader.open_stream(flood_id)
            floods.append((flood_id, reader, asyncio.create_task(_drain(reader))))
        for _ in range(plan.deletes):
            results.add(LOADED_DELETE_MS, await _delete_ms(server, caller))
        for flood_id, reader, task in floods:
            try:
                await caller.request("DELETE", f"/v1/jobs/{flood_id}?grace_s=0")
            except RuntimeError:
                pass  # its output_bytes were reached
            task.cancel()
            await asyncio.wait({task})
            await reader.close()
        await caller.close()


async def _drain(connection: Connection) -> None:
    while await connection.reader.read(1 << 20):
        pass


async def measure_kept(plan: Plan, results: Samples) -> None:
    """Run many jobs and look at what the server's process has grown by when all have ended."""
    async with serving(workers=2, keep_jobs=2 * KEPT_JOBS) as server:
        caller = await server.connect()
        await _run(caller, server, KEPT_JOBS // 50)
        before_mb = server.uss_mb
        await _run(caller, server, KEPT_JOBS)
        results.add(KEPT_MB, server.uss_mb - before_mb)
        await caller.close()


async def _run(caller: Connection, server: Server, number: int) -> None:
    for _ in range(number // 10):
        ids = [await caller.submit("emits", tokens=KEPT_TOKENS) for _ in range(10)]
        for job_id in ids:
            await caller.request("GET", f"/v1/jobs/{job_id}/result?wait_s=60")


PARTS = {
    "POST and GET": measure_pairs,
    "1,000 idle streams": measure_idle_streams,
    "DELETE under load": measure_loaded_deletes,
    "ended jobs kept": measure_kept,
}


def figures(results: Samples) -> list[Figure]:
    """Return every asked value with its measured one; medians unless the line says otherwise."""
    return [
        Figure(
            "POST and GET record by turns, one connection",
            1000, results.median(REQUESTS_PER_S), "requests/s", at_least=True, digits=0,
            note=f"POST {results.median(POST_MS) or 0:.2f} ms, GET {results.median(GET_MS) or 0:.2f} ms; "
            + spread(results, REQUESTS_PER_S, 0),
        ),
        Figure(
            "1,000 idle streams: added memory", 60, results.median(IDLE_STREAMS_MB), "MB",
            note=spread(results, IDLE_STREAMS_MB),
        ),
        Figure(
            "DELETE beside 1,000 idle streams, grace 0, p99", 50, results.percentile(IDLE_DELETE_MS, 99), "ms",
            note=f"p50 {results.median(IDLE_DELETE_MS) or 0:.2f}; {spread(results, IDLE_DELETE_MS, 2)}",
        ),
        Figure(
            "1,000 ended jobs of 1,000 tokens kept", 150, results.median(KEPT_MB), "MB",
            note=spread(results, KEPT_MB),
        ),
    ]  # fmt: skip


def remarks(results: Samples) -> list[str]:
    """Return what was measured without a bound."""
    p99 = results.percentile(LOADED_DELETE_MS, 99)
    if p99 is None:
        return []
    return [f"DELETE beside {FLOODS} flooding streams: p50 {results.median(LOADED_DELETE_MS):.1f}, p99 {p99:.1f} ms"]
