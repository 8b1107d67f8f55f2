"""Measure what telemetry adds to a job's first token, and to each token, beside a server without.

Runs in: the benchmark. Two servers, asked in turns, each a process of its own; one sends every trace, and the metrics
each second, to a collector that takes everything. The table goes to stdout, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import runner
from measurement import Figure, Samples, median_range
from servers import SETTLE_S, Server, first_token_s, serve_process
from trial_plan import Plan

from killable.api.cli.bench.raw_connection import RawConnection
from killable.supervisor.clock import process_cpu_s

COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args): ...

server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
WITHOUT, WITH = "without", "with telemetry"
FIRST_TOKEN, PER_TOKEN = "POST → first token", "processor time of the server for each token"
SHARE_MAX = 5.0
"""Percent that telemetry may add to the first token."""
TOKENS, TOKENS_OF_LONG = 20_000, 120_000
"""Of two streams, one after the other: what a job costs as a whole, and what is sent each second, is not of a token."""
STREAM_PAIRS_SHARE = 8


@asynccontextmanager
async def collector() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COLLECTOR, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


async def token_cpu_us(server: Server, _: RawConnection) -> float:
    """Return the processor time of the server for each token of a stream that is read, in µs."""
    short_s, long_s = [await stream_cpu_s(server, tokens) for tokens in (TOKENS, TOKENS_OF_LONG)]
    return (long_s - short_s) / (TOKENS_OF_LONG - TOKENS) * 1e6


async def stream_cpu_s(server: Server, tokens: int) -> float:
    """Return the processor time of the server for a stream that is read, in seconds."""
    reader = await server.connect()
    before = process_cpu_s(server.pid) or 0.0
    caller = await server.connect()  # one that was idle for long is closed
    reader.open_stream(await caller.submit("yield_tokens", tokens=tokens))
    await reader.line_with(b"event: completed")
    used_s = (process_cpu_s(server.pid) or 0.0) - before
    for connection in (reader, caller):
        await connection.close()
    return used_s


def sample_name(what: str, server: str) -> str:
    return f"{what} · {server}"


def added_name(what: str) -> str:
    return f"{what} · added in a pair"


async def measure(plan: Plan, results: Samples) -> None:
    """Ask both servers in turns, each first in every other pair."""
    async with collector() as url:
        sends = {"TELEMETRY__ENDPOINT": url, "TELEMETRY__METRICS_EVERY_S": "1"}
        async with (
            serve_process(workers=2, queue_jobs_max=100_000) as bare,
            serve_process(workers=2, queue_jobs_max=100_000, more=sends) as traced,
        ):
            servers = {WITHOUT: bare, WITH: traced}
            callers = {name: await server.connect() for name, server in servers.items()}
            pairs = plan.first_lines
            for what, act, number, unit in (
                (FIRST_TOKEN, first_token_s, pairs, 1000),
                (PER_TOKEN, token_cpu_us, max(6, pairs // STREAM_PAIRS_SHARE), 1),
            ):
                for turn in range(-2, number):
                    took = {}
                    for name in sorted(servers, reverse=turn % 2 == 1):
                        took[name] = await act(servers[name], callers[name]) * unit
                        await asyncio.sleep(SETTLE_S)  # a spare is forked
                    if turn >= 0:
                        for name, value in took.items():
                            results.add(sample_name(what, name), value)
                        results.add(added_name(what), took[WITH] - took[WITHOUT])
            for caller in callers.values():
                await caller.close()


def figures(results: Samples) -> list[Figure]:
    found = []
    for what, unit in ((FIRST_TOKEN, "ms"), (PER_TOKEN, "µs")):
        bare, traced = (results.median(sample_name(what, name)) for name in (WITHOUT, WITH))
        added = results.median(added_name(what))
        if bare is None or traced is None or added is None:
            continue
        low, high = median_range(results.values[added_name(what)])
        share, bound = added / bare * 100, SHARE_MAX
        note = f"{bare:.3f} {unit} without, {traced:.3f} with; added {low:.3f} … {high:.3f} {unit} (95 %)"
        if what == PER_TOKEN:
            bound = max(0.0, (added - low) / bare * 100)  # reached if 0 is in the range
        text = "0, in the range" if what == PER_TOKEN else ""
        found.append(Figure(f"{what}: added by telemetry, p50", bound, share, "%", False, 1, text, note))
    return found


PARTS = {"telemetry": measure}

if __name__ == "__main__":
    runner.run(runner.command("telemetry", PARTS, figures, lambda _: []), __doc__ or "")
