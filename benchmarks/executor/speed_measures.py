"""How fast peers start jobs and run them: first lines, no-ops, maps, bytes, streams, a new pool.

Runs in: a trial.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import psutil

from executor import tasks
from executor.peers import LIBRARIES, Peer
from executor.watched_pool import CANNOT, IDLE_S, Trial

FIRST_LINE = "submit → first line, idle warm worker, ms"
IDLE_FIRST_LINE = "submit → first line after 0.3 s without a call, ms"
BUSY_FIRST_LINE = "submit → first line while another thread of the program computes, ms"
NOOPS = "no-op calls, results fetched, calls/s"
CPU = "processor time of a no-op call, all processes, µs"
MAP_SINGLE = "map of small items, chunksize 1, items/s"
MAP = "map of 100,000 small items, ms"
BYTES = "100 MB of bytes there and back, ms"
STREAM = "stream, one yield per token, tokens/s"
FIRST_TOKEN = "submit → first token at its reader, ms"
COLD_START = "new pool → first result, nothing preloaded, ms"
MAP_ITEMS = 100_000
CHUNKSIZES = (100, 500, 2000, 10_000)
BYTES_EACH_WAY = 100 * 10**6
WARM_UP_JOBS = 50
LATENCY_BUDGET_S = 10
_NOOP_WARM_UP = 200


def map_name(chunksize: int) -> str:
    return f"{MAP} (chunksize {chunksize})"


def measure_first_lines(trial: Trial) -> None:
    with trial.warm_pool() as peer:
        _add_first_lines(trial, FIRST_LINE, peer)


def measure_idle_first_lines(trial: Trial) -> None:
    """The same with a pause before each call, in which processors sleep and caches go cold."""
    with trial.warm_pool() as peer:
        for _ in range(trial.plan.executor_idle_first_lines):
            time.sleep(IDLE_S)
            submitted_ns = time.monotonic_ns()
            trial.add(IDLE_FIRST_LINE, (peer.submit(tasks.first_line).result() - submitted_ns) / 1e6)


def measure_busy_first_lines(trial: Trial) -> None:
    """The same while another thread of this program holds the GIL as long as it can."""
    stopped = False

    def compute() -> None:
        while not stopped:
            pass

    thread = threading.Thread(target=compute, daemon=True)
    with trial.warm_pool() as peer:
        thread.start()
        try:
            _add_first_lines(trial, BUSY_FIRST_LINE, peer)
        finally:
            stopped = True
            thread.join()


def _add_first_lines(trial: Trial, measure: str, peer: Peer) -> None:
    for is_warm in _back_to_back(trial.plan.executor_first_lines):
        submitted_ns = time.monotonic_ns()
        line_ns = peer.submit(tasks.first_line).result()
        if is_warm:
            trial.add(measure, (line_ns - submitted_ns) / 1e6)


def _back_to_back(count: int) -> Iterator[bool]:
    """Yield False for each warm-up job and then True up to `count` times, without a pause, within a time budget."""
    until = time.monotonic() + LATENCY_BUDGET_S
    for number in range(WARM_UP_JOBS + count):
        yield number >= WARM_UP_JOBS
        if time.monotonic() > until:
            return


def measure_noops(trial: Trial) -> None:
    count = int(trial.plan.executor_noops * trial.peer_type.job_share)
    with trial.warm_pool() as peer:
        for future in [peer.submit(tasks.do_nothing) for _ in range(_NOOP_WARM_UP)]:
            future.result()
        for _ in trial.repeat(trial.plan.executor_rounds):
            cpu_s, began = _cpu_s(), time.monotonic()
            for future in [peer.submit(tasks.do_nothing) for _ in range(count)]:
                future.result()
            trial.add(NOOPS, count / (time.monotonic() - began))
            if trial.peer_type in LIBRARIES:  # processes of the others need not be below this one
                trial.add(CPU, (_cpu_s() - cpu_s) / count * 1e6)


def _cpu_s() -> float:
    """Return the processor time of this program and its descendants."""
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    # clock_getcpuclockid(3): the clock of a whole process, threads that have ended included
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def measure_map(trial: Trial) -> None:
    with trial.warm_pool() as peer:
        for _ in trial.repeat(trial.plan.executor_rounds):
            count = trial.plan.executor_noops
            trial.add(MAP_SINGLE, count / _map_s(peer, count, 1))
            if not trial.peer_type.has_chunks:
                trial.set_outcome(MAP, CANNOT)
                continue
            for chunksize in CHUNKSIZES:
                trial.add(map_name(chunksize), _map_s(peer, MAP_ITEMS, chunksize) * 1000)


def _map_s(peer: Peer, count: int, chunksize: int) -> float:
    began = time.monotonic()
    results = list(peer.map(tasks.square, range(count), chunksize))
    took_s = time.monotonic() - began
    assert results[-1] == (count - 1) ** 2
    return took_s


def measure_bytes(trial: Trial) -> None:
    data = os.urandom(BYTES_EACH_WAY)
    with trial.warm_pool() as peer:
        for _ in trial.repeat(trial.plan.executor_rounds):
            began = time.monotonic()
            returned = peer.submit(tasks.echo, data).result()
            trial.add(BYTES, (time.monotonic() - began) * 1000)
            assert returned == data


def measure_streams(trial: Trial) -> None:
    """Measure the rate from the first token to the last, and the delay of the first token of short streams."""
    for _ in trial.repeat(trial.plan.executor_rounds):
        with trial.warm_pool() as peer:
            peer.prepare_stream()
            count = 0
            first_at = 0.0
            for _token in peer.stream(trial.plan.executor_tokens):
                first_at = first_at or time.monotonic()
                count += 1
            trial.add(STREAM, count / (time.monotonic() - first_at))
            assert count == trial.plan.executor_tokens
    with trial.warm_pool() as peer:
        peer.prepare_stream()
        for is_warm in _back_to_back(trial.plan.executor_first_tokens):
            submitted_ns = time.monotonic_ns()
            for _token in peer.stream(1):
                if is_warm:
                    trial.add(FIRST_TOKEN, (time.monotonic_ns() - submitted_ns) / 1e6)


def measure_cold_start(trial: Trial) -> None:
    """Measure one value: a second pool of the same process would find helper processes of the first."""
    began = time.monotonic()
    with trial.peer_type() as peer:
        peer.submit(tasks.do_nothing).result()
        trial.add(COLD_START, (time.monotonic() - began) * 1000)


# ── a script's global array of 40 MB ──
