"""Measure HTTP requests to `killable serve`: rate, DELETE beside many streams and under load, memory of ended jobs.

    python benchmarks/bench_http.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The server is a process of its own, the client a raw socket. The table goes to stdout, progress
to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import runner
import typer
from http_client import READ_BYTES, Connection
from measurement import Figure, Plan, Samples
from servers import Server, serve_process

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
    """Submit trivial jobs and get each record, one request after the other.

    On a blocking socket, which is the least that a client can cost.
    """
    async with serve_process(workers=1, queue_jobs_max=100_000) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _send_pairs(connection, plan.request_pairs // 10)  # the first ones fill caches
            began = time.monotonic()
            for post_s, get_s in _send_pairs(connection, plan.request_pairs):
                results.add(POST_MS, post_s * 1000)
                results.add(GET_MS, get_s * 1000)
            results.add(REQUESTS_PER_S, 2 * plan.request_pairs / (time.monotonic() - began))


def _send_pairs(connection: socket.socket, number: int) -> list[tuple[float, float]]:
    """Return the seconds of each POST and of the GET after it."""
    took = []
    body = b'{"type": "one_token"}'
    head = "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    post = (head % len(body)).encode() + body
    for _ in range(number):
        began = time.monotonic()
        answer = _request(connection, post)
        posted = time.monotonic()
        address = answer.partition(b"location: ")[2].partition(b"\r\n")[0]
        _request(connection, b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % address)
        took.append((posted - began, time.monotonic() - posted))
    return took


def _request(connection: socket.socket, request: bytes) -> bytes:
    """Return a whole 2xx response. Raise RuntimeError for any other."""
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
    """Hold many streams of a job without output; then start and kill other jobs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server inherits it
    try:
        async with serve_process(workers=3, connections_max=4 * IDLE_STREAMS) as server:
            caller = await server.connect()
            job_id = await caller.submit("wait_for_signal")
            await _first_token(server, job_id)
            for _ in range(plan.deletes):  # memory that the server needs for these is not the streams'
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
    """Start a job that computes and kill it; return the milliseconds until the response that it is dead."""
    job_id = await caller.submit("python_loop")
    await _first_token(server, job_id)
    began = time.monotonic()
    answer = await caller.request("DELETE", f"/v1/jobs/{job_id}?grace_s=0")
    took_ms = (time.monotonic() - began) * 1000
    if answer["status"] != "cancelled":
        raise RuntimeError(f"not dead: {answer}")
    return took_ms


async def measure_loaded_deletes(plan: Plan, results: Samples) -> None:
    """Kill jobs while others flood their streams and clients read all of them."""
    async with serve_process(workers=FLOODS + 1) as server:
        caller = await server.connect()
        floods = []
        for _ in range(FLOODS):
            flood_id = await caller.submit("yield_tokens", tokens=10**8)
            reader = await server.connect()
            reader.open_stream(flood_id)
            floods.append((flood_id, reader, asyncio.create_task(_drain(reader))))
        for _ in range(plan.deletes):
            results.add(LOADED_DELETE_MS, await _delete_ms(server, caller))
        for flood_id, reader, task in floods:
            try:
                await caller.request("DELETE", f"/v1/jobs/{flood_id}?grace_s=0")
            except RuntimeError:
                pass  # it has reached its output_bytes
            task.cancel()
            await asyncio.wait({task})
            await reader.close()
        await caller.close()


async def _drain(connection: Connection) -> None:
    while await connection.reader.read(READ_BYTES):
        pass


async def measure_kept(plan: Plan, results: Samples) -> None:
    """Measure the memory that the server has gained when many jobs have ended."""
    async with serve_process(workers=2, keep_jobs=2 * KEPT_JOBS) as server:
        caller = await server.connect()
        await _run_jobs(caller, KEPT_JOBS // 50)
        before_mb = server.uss_mb
        await _run_jobs(caller, KEPT_JOBS)
        results.add(KEPT_MB, server.uss_mb - before_mb)
        await caller.close()


async def _run_jobs(caller: Connection, number: int) -> None:
    for _ in range(number // 10):
        ids = [await caller.submit("yield_tokens", tokens=KEPT_TOKENS) for _ in range(10)]
        for job_id in ids:
            await caller.request("GET", f"/v1/jobs/{job_id}/result?wait_s=60")


PARTS = {
    "POST and GET": measure_pairs,
    "1,000 idle streams": measure_idle_streams,
    "DELETE under load": measure_loaded_deletes,
    "ended jobs kept": measure_kept,
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value; medians unless stated otherwise."""
    return [
        Figure(
            "POST and GET record by turns, one connection",
            1000, results.median(REQUESTS_PER_S), "requests/s", at_least=True, digits=0,
            note=results.spread(REQUESTS_PER_S, 0),
        ),
        Figure(
            "1,000 idle streams: added memory", 60, results.median(IDLE_STREAMS_MB), "MB",
            note=results.spread(IDLE_STREAMS_MB),
        ),
        Figure(
            "DELETE beside 1,000 idle streams, grace 0, p99", 50, results.percentile(IDLE_DELETE_MS, 99), "ms",
            note=results.spread(IDLE_DELETE_MS, 2, (50,)),
        ),
        Figure(
            "1,000 ended jobs of 1,000 tokens kept: added memory", 150, results.median(KEPT_MB), "MB",
            note=results.spread(KEPT_MB),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the values without a target."""
    named = {
        "POST, in ms": POST_MS,
        "GET record, in ms": GET_MS,
        f"DELETE beside {FLOODS} flooding streams, in ms": LOADED_DELETE_MS,
    }
    return [f"{what}: {results.spread(name, 2, (50, 99))}" for what, name in named.items() if name in results]


if __name__ == "__main__":
    typer.run(runner.command("bench_http", PARTS, figures, notes))
