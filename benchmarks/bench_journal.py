"""Measure what a journal adds to POST, to the first token and to DELETE, beside a server without one.

Runs in: the benchmark. Two servers, asked in turns, each a process of its own; the journal is on a tmpfs or on a disk.
The table goes to stdout, progress to stderr, samples to benchmarks/results/.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import runner
from measurement import Figure, Samples, median_range
from servers import SETTLE_S, Server, first_token_s, kill_s, serve_process
from trial_plan import Plan

from killable.api.cli.bench.raw_connection import RawConnection

TMPFS = Path("/dev/shm")
PLACES = {"tmpfs": TMPFS, "disk": runner.RESULTS}
"""Where the journal is, by the name of the place. `results/` is in the clone, which is on a disk."""
POST, FIRST_TOKEN, DELETE = "POST → answer", "POST → first token", "DELETE of a running job → dead"
BURST = "POST of 64 at once → the last answer"
BURST_JOBS = 64
WITHOUT = "no journal"
SYNC_BYTES = 16 << 10
"""About what a commit appends to the write-ahead log."""

Measure = Callable[[Server, RawConnection], Awaitable[float]]


async def post_s(_: Server, caller: RawConnection) -> float:
    began = time.monotonic()
    await caller.submit("one_token")
    return time.monotonic() - began


async def burst_s(server: Server, _: RawConnection) -> float:
    callers = [await server.connect() for _ in range(BURST_JOBS)]
    began = time.monotonic()
    await asyncio.gather(*(caller.submit("one_token") for caller in callers))
    took_s = time.monotonic() - began
    for caller in callers:
        await caller.close()
    return took_s


MEASURES: dict[str, tuple[Measure, Callable[[Plan], int], float]] = {
    POST: (post_s, lambda plan: plan.request_pairs // 4, 2.0),
    FIRST_TOKEN: (first_token_s, lambda plan: plan.first_lines, 2.0),
    DELETE: (kill_s, lambda plan: plan.deletes, 0.0),
    BURST: (burst_s, lambda plan: plan.batches * 5, 1.0 * BURST_JOBS),
}
"""How each is measured, how often, and what a journal may add in milliseconds. Nothing to a DELETE, as far as the
measurement can tell.
"""


def sample_name(what: str, place: str, server: str) -> str:
    return f"{what} · {place} · {server}, ms"


def added_name(what: str, place: str) -> str:
    return f"{what} · {place} · added in a pair, ms"


def sync_name(place: str) -> str:
    return f"bare write and fdatasync · {place}, ms"


def sync_s(descriptor: int) -> float:
    began = time.monotonic()
    os.write(descriptor, bytes(SYNC_BYTES))
    os.fdatasync(descriptor)
    return time.monotonic() - began


async def measure(place: str, plan: Plan, results: Samples) -> None:
    """Ask both servers in turns, each first in every other pair: what disturbs one disturbs the other.

    What a journal adds is the median of the differences within pairs. What both have in common, such as the processors
    that others take, is not in it.
    """
    PLACES[place].mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=PLACES[place]))
        async with (
            serve_process(workers=2, queue_jobs_max=100_000) as bare,
            serve_process(workers=2, queue_jobs_max=100_000, journal=Path(folder, "journal")) as journaled,
        ):
            bare_file = stack.enter_context(open(Path(folder, "bare"), "wb", buffering=0))
            servers = {WITHOUT: bare, "journal": journaled}
            callers = {name: await server.connect() for name, server in servers.items()}
            for what, (act, number_of, _) in MEASURES.items():
                for turn in range(-2, number_of(plan)):
                    results.add(sync_name(place), sync_s(bare_file.fileno()) * 1000)
                    took_ms = {}
                    for name in sorted(servers, reverse=turn % 2 == 1):
                        took_ms[name] = await act(servers[name], callers[name]) * 1000
                        await asyncio.sleep(SETTLE_S)  # a spare is forked
                    if turn >= 0:  # the first ones fill caches
                        for name, ms in took_ms.items():
                            results.add(sample_name(what, place, name), ms)
                        results.add(added_name(what, place), took_ms["journal"] - took_ms[WITHOUT])
            for caller in callers.values():
                await caller.close()


def figures(results: Samples) -> list[Figure]:
    found = []
    for place in PLACES:
        for what, (_, _, bound) in MEASURES.items():
            bare, journaled = (results.median(sample_name(what, place, name)) for name in (WITHOUT, "journal"))
            added, note = results.median(added_name(what, place)), ""
            if added is not None:
                low, high = median_range(results.values[added_name(what, place)])
                note = f"{low:.2f} … {high:.2f} (95 %); {bare:.2f} ms without, {journaled:.2f} ms with"
                if what == DELETE:
                    bound = max(0.0, added - low)  # reached if 0 is in the range
            text = "0, in the range" if what == DELETE else ""
            found.append(Figure(f"{what}: added by a journal, {place}, p50", bound, added, "ms", False, 2, text, note))
    return found


def notes(results: Samples) -> list[str]:
    """Return what the disk itself takes, at the same time."""
    return [f"{name}: {results.spread(name, 2, (50, 99))}" for name in map(sync_name, PLACES) if name in results]


PARTS = {place: partial(measure, place) for place in PLACES}

if __name__ == "__main__":
    runner.run(runner.command("journal", PARTS, figures, notes), __doc__ or "")
