"""What a job costs while nobody stops it: starts, throughput, large values, streams, a cold pool.

Runs in: a trial.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

from executor import tasks
from executor.contest import CANNOT, Contest, within_budget

FIRST_LINE = "submit → first line, idle warm worker, ms"
BUSY_FIRST_LINE = "submit → first line while another thread of the program computes, ms"
NOOPS = "no-op jobs, results fetched, jobs/s"
MAP = "map of 100,000 small items, ms"
BYTES = "100 MB of bytes there and back, ms"
STREAM = "stream, one yield per token, tokens/s"
FIRST_TOKEN = "submit → first token at its reader, ms"
COLD = "new pool → first result, nothing preloaded, ms"
CHUNKSIZES = (100, 500, 2000, 10_000)
BYTES_EACH_WAY = 100 * 10**6
_WARM_JOBS = 200
_SECONDS = 10


def chunked(chunksize: int) -> str:
    return f"{MAP} (chunksize {chunksize})"


def first_lines(contest: Contest) -> None:
    with contest.warm() as peer:
        _first_lines(contest, FIRST_LINE, peer.submit)


def busy_first_lines(contest: Contest) -> None:
    """The same while another thread holds the GIL as long as it may."""
    stopped = False

    def compute() -> None:
        while not stopped:
            pass

    thread = threading.Thread(target=compute, daemon=True)
    with contest.warm() as peer:
        thread.start()
        try:
            _first_lines(contest, BUSY_FIRST_LINE, peer.submit)
        finally:
            stopped = True
            thread.join()


def _first_lines(contest: Contest, measure: str, submit: object) -> None:
    assert callable(submit)
    for number in _one_after_the_other(contest.plan.executor_first_lines):
        asked_ns = time.monotonic_ns()
        line_ns = submit(tasks.first_line).result()
        if number >= 0:
            contest.add(measure, (line_ns - asked_ns) / 1e6)


def _one_after_the_other(count: int) -> Iterator[int]:
    """Count the jobs of a warm worker, without a pause, as long as there is time; those that warm it are below 0."""
    until = time.monotonic() + _SECONDS
    for number in range(-_WARM_JOBS // 4, count):
        yield number
        if time.monotonic() > until:
            return


def noops(contest: Contest) -> None:
    count = int(contest.plan.executor_noops * contest.kind.share)
    with contest.warm() as peer:
        for future in [peer.submit(tasks.nothing) for _ in range(_WARM_JOBS)]:
            future.result()
        for _ in within_budget(contest.plan.executor_rounds):
            began = time.monotonic()
            for future in [peer.submit(tasks.nothing) for _ in range(count)]:
                future.result()
            contest.add(NOOPS, count / (time.monotonic() - began))


def maps(contest: Contest) -> None:
    items = range(100_000)
    with contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_rounds):
            for chunksize in CHUNKSIZES:
                began = time.monotonic()
                results = list(peer.map(tasks.square, items, chunksize))
                contest.add(chunked(chunksize), (time.monotonic() - began) * 1000)
                assert results[-1] == items[-1] ** 2


def large_bytes(contest: Contest) -> None:
    data = os.urandom(BYTES_EACH_WAY)
    with contest.warm() as peer:
        for _ in within_budget(contest.plan.executor_rounds):
            began = time.monotonic()
            back = peer.submit(tasks.echo, data).result()
            contest.add(BYTES, (time.monotonic() - began) * 1000)
            assert back == data


def streams(contest: Contest) -> None:
    """Read tokens from the first to the last; the first of short streams on a worker that is as warm as for lines."""
    if not contest.kind.streams:
        return contest.say(STREAM, CANNOT)
    for _ in within_budget(contest.plan.executor_rounds):
        with contest.warm() as peer:
            peer.ready_to_stream()
            count = 0
            first_at = 0.0
            for _token in peer.stream(contest.plan.executor_tokens):
                first_at = first_at or time.monotonic()
                count += 1
            contest.add(STREAM, count / (time.monotonic() - first_at))
            assert count == contest.plan.executor_tokens
    with contest.warm() as peer:
        peer.ready_to_stream()
        for number in _one_after_the_other(contest.plan.executor_first_tokens):
            asked_ns = time.monotonic_ns()
            for _token in peer.stream(1):
                if number >= 0:
                    contest.add(FIRST_TOKEN, (time.monotonic_ns() - asked_ns) / 1e6)
    return None


def cold(contest: Contest) -> None:
    """Once: a second pool of one process finds helpers of the first."""
    began = time.monotonic()
    with contest.kind() as peer:
        peer.submit(tasks.nothing).result()
        contest.add(COLD, (time.monotonic() - began) * 1000)
