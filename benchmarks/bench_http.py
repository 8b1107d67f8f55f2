"""Measure `killable serve` over HTTP: requests, DELETE beside streams, streams of tokens, memory of streams and jobs,
jobs during a reload.

Runs in: the benchmark. The server is a process of its own, clients are raw sockets. The table goes to stdout, progress
to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import time

import runner
from measurement import Figure, Samples
from servers import HERE, Server, kill_s, serve_process
from trial_plan import Plan

from killable.api.cli.bench.raw_connection import READ_BYTES, RawConnection
from killable.api.cli.bench.speed import count_tokens

# ── requests ──

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
            job_id = (await server.start(caller, "wait_for_signal")).job_id
            for _ in range(plan.deletes):  # memory that the server needs for these is not the streams'
                await kill_s(server, caller)
            before_mb = server.uss_mb
            connections = [await server.connect() for _ in range(IDLE_STREAMS)]
            for connection in connections:
                connection.open_stream(job_id)
            for connection in connections:
                await connection.line_with(b"event: token")
            results.add(IDLE_STREAMS_MB, server.uss_mb - before_mb)
            for _ in range(plan.deletes):
                results.add(IDLE_DELETE_MS, await kill_s(server, caller) * 1000)
            for connection in (*connections, caller):
                await connection.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
            results.add(LOADED_DELETE_MS, await kill_s(server, caller) * 1000)
        for flood_id, reader, task in floods:
            try:
                await caller.request("DELETE", f"/v1/jobs/{flood_id}?grace_s=0")
            except RuntimeError:
                pass  # it has reached its output_bytes
            task.cancel()
            await asyncio.wait({task})
            await reader.close()
        await caller.close()


async def _drain(connection: RawConnection) -> None:
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


async def _run_jobs(caller: RawConnection, number: int) -> None:
    for _ in range(number // 10):
        ids = [await caller.submit("yield_tokens", tokens=KEPT_TOKENS) for _ in range(10)]
        for job_id in ids:
            await caller.request("GET", f"/v1/jobs/{job_id}/result?wait_s=60")


# ── streams ──

TOKENS_PER_S = "one job through SSE to one client, tokens/s"
FIRST_TOKEN_MS = "POST → first SSE token of a trivial job, ms"
SINGLE_MS = "a single token: emitted → at the client, ms"
CONCURRENT_MS = "64 jobs at 100 tokens/s to 64 clients: delay, ms"
CONCURRENT_LOST = "64 jobs at 100 tokens/s to 64 clients: lost tokens"
READERS_TOKENS_PER_S = "64 readers of one job: tokens/s in all"

CONCURRENT = 64
CONCURRENT_INTERVAL_S = 0.01
SINGLE_INTERVAL_S = 0.02
READERS = 64
STAGGER_NS = 157_000
"""Between the first tokens of two jobs: a 64th of the interval."""


async def measure_tokens(plan: Plan, results: Samples) -> None:
    """Read one job's stream with a raw socket, from its first token to its last."""
    async with serve_process(workers=1) as server:
        for _ in range(plan.streams):
            caller = await server.connect()
            job_id = await caller.submit("yield_tokens", tokens=plan.stream_tokens)
            caller.open_stream(job_id)
            tokens, took_s = await count_tokens(caller)
            _require_tokens(tokens, plan.stream_tokens)
            results.add(TOKENS_PER_S, tokens / took_s)
            await caller.close()


def _require_tokens(tokens: int, expected: int) -> None:
    if tokens != expected:
        raise RuntimeError(f"received {tokens} of {expected} tokens")


async def measure_first_tokens(plan: Plan, results: Samples) -> None:
    """Post on an open connection, request the stream on it, and read up to the first token."""
    async with serve_process(workers=1) as server:
        for _ in range(plan.first_lines):
            caller = await server.connect()
            began = time.monotonic()
            job_id = await caller.submit("one_token")
            caller.open_stream(job_id)
            await caller.line_with(b"event: token")
            results.add(FIRST_TOKEN_MS, (time.monotonic() - began) * 1000)
            await caller.close()


async def measure_single_tokens(plan: Plan, results: Samples) -> None:
    """Compare the time in each token with the time at which it was read: CLOCK_MONOTONIC is the same in both."""
    async with serve_process(workers=1) as server:
        caller = await server.connect()
        job_id = await caller.submit("yield_times", tokens=plan.single_tokens, interval_s=SINGLE_INTERVAL_S)
        results.add(SINGLE_MS, *await _delays_ms(server, job_id, plan.single_tokens))
        await caller.close()


async def _delays_ms(server: Server, job_id: str, tokens: int) -> list[float]:
    """Read the stream of a job of type `yield_times` to its end."""
    connection = await server.connect()
    connection.open_stream(job_id)
    delays: list[float] = []
    while len(delays) < tokens:
        line = await connection.line_with(b'"text"')
        arrived_ns = time.monotonic_ns()
        emitted_ns = int(json.loads(line.partition(b": ")[2])["text"])
        delays.append((arrived_ns - emitted_ns) / 1e6)
    await connection.line_with(b"event: completed")
    await connection.close()
    return delays


async def measure_concurrent(plan: Plan, results: Samples) -> None:
    """Run many slow jobs at once, each with a client of its own."""
    tokens = plan.concurrent_tokens
    async with serve_process(workers=CONCURRENT) as server:
        caller = await server.connect()
        begin_ns = time.monotonic_ns() + int(plan.concurrent_start_s * 1e9)
        ids = [
            await caller.submit(
                "yield_times", tokens=tokens, interval_s=CONCURRENT_INTERVAL_S, begin_ns=begin_ns + number * STAGGER_NS
            )
            for number in range(CONCURRENT)
        ]
        readers = await asyncio.gather(*(_delays_ms(server, job_id, tokens) for job_id in ids))
        results.add(CONCURRENT_MS, *(delay for delays in readers for delay in delays))
        results.add(CONCURRENT_LOST, CONCURRENT * tokens - sum(map(len, readers)))
        await caller.close()


async def measure_readers(plan: Plan, results: Samples) -> None:
    """Read one job's whole stream with many readers at once."""
    async with serve_process(workers=1) as server:
        caller = await server.connect()
        tokens = plan.stream_tokens // 20
        job_id = await caller.submit("yield_tokens", tokens=tokens)
        connections = [await server.connect() for _ in range(READERS)]
        began = time.monotonic()
        for connection in connections:
            connection.open_stream(job_id)
        counts = await asyncio.gather(*map(count_tokens, connections))
        took_s = time.monotonic() - began
        for count, _ in counts:
            _require_tokens(count, tokens)
        results.add(READERS_TOKENS_PER_S, READERS * tokens / took_s)
        for connection in (caller, *connections):
            await connection.close()


# ── a reload ──

RELOAD_MS = "longest wait of a job during a reload, ms"
QUIET_MS = "longest wait of a job without one, ms"

EACH_S = 0.02
RELOAD_S = 3.0
"""For which jobs are sent: a reload is over in it."""
UNHURRIED_S = 0.3
"""After the first of them: the reload begins with jobs under way."""


async def measure_reload(plan: Plan, results: Samples) -> None:
    """Send a job each 20 ms and wait for its result, in turns with a SIGHUP in the middle and without."""
    module = HERE / "slow_preload_jobs.py"
    async with serve_process(workers=2, module=module) as server, server.connected() as caller:
        await _longest_ms(server)  # the first ones fill caches
        for _ in range(plan.reloads):
            results.add(QUIET_MS, await _longest_ms(server))
            before = (await caller.request("GET", "/v1/reload"))["started_at"]
            asyncio.get_running_loop().call_later(UNHURRIED_S, os.kill, server.pid, signal.SIGHUP)
            results.add(RELOAD_MS, await _longest_ms(server))
            record = await caller.request("GET", "/v1/reload")
            if record["state"] != "done" or record["started_at"] == before:
                raise RuntimeError(f"no reload was over in {RELOAD_S} s: {record}")


async def _longest_ms(server: Server) -> float:
    """Return the longest time from a POST to the result. Each is sent when it is due, whatever the others wait for."""

    async def ask() -> float:
        async with server.connected() as caller:
            began = time.monotonic()
            job_id = await caller.submit("ask")
            answer: object = await caller.request("GET", f"/v1/jobs/{job_id}/result?wait_s=60")
            took_s = time.monotonic() - began
        if answer != "yes":
            raise RuntimeError(repr(answer))
        return took_s

    asked = []
    began = time.monotonic()
    for number in range(round(RELOAD_S / EACH_S)):
        await asyncio.sleep(max(0.0, began + number * EACH_S - time.monotonic()))
        asked.append(asyncio.create_task(ask()))
    return max(await asyncio.gather(*asked)) * 1000


# ── the command ──

PARTS = {
    "POST and GET": measure_pairs,
    "1,000 idle streams": measure_idle_streams,
    "DELETE under load": measure_loaded_deletes,
    "ended jobs kept": measure_kept,
    "tokens through SSE": measure_tokens,
    "first tokens": measure_first_tokens,
    "single tokens": measure_single_tokens,
    "64 jobs, 64 clients": measure_concurrent,
    "64 readers of one job": measure_readers,
    "a reload": measure_reload,
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
        Figure(
            "one job through SSE to one client, one id per emit",
            150_000, results.median(TOKENS_PER_S), "tokens/s", at_least=True, digits=0,
            note=results.spread(TOKENS_PER_S, 0),
        ),
        Figure(
            "POST → first SSE token of a trivial job", 8.0, results.median(FIRST_TOKEN_MS), "ms", digits=2,
            note=results.spread(FIRST_TOKEN_MS, 2, (99,)),
        ),
        Figure(
            "a single token: emitted → at the client", 2.0, results.median(SINGLE_MS), "ms", digits=2,
            note=results.spread(SINGLE_MS, 2, (99,)),
        ),
        Figure(
            "64 jobs at 100 tokens/s to 64 clients: lost", 0, results.total(CONCURRENT_LOST), "tokens", digits=0,
            target_text="none",
        ),
        Figure(
            "64 jobs at 100 tokens/s to 64 clients: delay, p99", 50.0, results.percentile(CONCURRENT_MS, 99), "ms",
            note=results.spread(CONCURRENT_MS, 2, (50,)),
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    """Return the values without a target."""
    named = {
        "POST, in ms": POST_MS,
        "GET record, in ms": GET_MS,
        f"DELETE beside {FLOODS} flooding streams, in ms": LOADED_DELETE_MS,
        "longest wait of a job sent each 20 ms, in ms": QUIET_MS,
        "the same during a reload with a preload of 1 s, in ms": RELOAD_MS,
    }
    found = [f"{what}: {results.spread(name, 2, (50, 99))}" for what, name in named.items() if name in results]
    rate = results.median(READERS_TOKENS_PER_S)
    return found if rate is None else [*found, f"{READERS} readers of one job: {rate:,.0f} tokens/s in all"]


if __name__ == "__main__":
    runner.run(
        runner.command("bench_http", PARTS, figures, notes), __doc__, examples=["--quick --only DELETE --only streams"]
    )
