"""Run the parts of a benchmark one after the other: each with the server that it needs, and none left behind.

Runs in: a benchmark (Linux), main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from killable.api.cli import interrupts
from killable.api.cli.bench import cancels, jobs, load, memory, recovery, speed
from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.results import Results
from killable.api.cli.bench.server_calls import BenchServer, pool_settings
from killable.api.cli.server.own_server import OwnServer, described
from killable.workers.errors import KillableError

PART_S = 300.0
"""For one part in one pass: whatever hangs is told, and the next part begins."""

Measure = Callable[[BenchServer, Plan, Results], Awaitable[None]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ServerPart:
    """What is measured together. `settings`: those of its server; neighbours with the same share one."""

    name: str
    measure: Measure
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CallPart:
    """What is measured in this process, without a server."""

    name: str
    measure: Callable[[Plan, Results], None]


KILLED = pool_settings(workers=2)
REUSED = pool_settings(workers=2, jobs_per_worker_max=0)


def measurements(chance: random.Random) -> list[ServerPart | CallPart]:
    """Return the parts of `killable bench`."""

    def cancel(part: str) -> Measure:
        return lambda server, plan, results: cancels.measure(part, server, plan, results, chance)

    return [
        *(ServerPart(name, cancel(name), KILLED) for name in cancels.CASES),
        ServerPart("memory", memory.measure, KILLED),
        ServerPart("jobs-http", speed.measure_fresh, KILLED),
        ServerPart("recovery", recovery.measure_with_spare, KILLED),
        ServerPart("recovery", recovery.measure_without_spare, pool_settings(workers=2, spares=0)),
        ServerPart("jobs-http", speed.measure_reused, REUSED),
        ServerPart("tokens", speed.measure_tokens, REUSED),
        CallPart("jobs-executor", speed.measure_calls),
    ]


def load_test(streams: int) -> list[ServerPart | CallPart]:
    """Return the parts of `killable bench load`."""
    settings = pool_settings(workers=2, jobs_per_worker_max=0)
    many = pool_settings(workers=streams, spares=streams, jobs_per_worker_max=0)
    return [
        ServerPart("load-rate", load.measure_rate, settings),
        ServerPart("load-burst", load.measure_burst, settings),
        ServerPart("load-slow-reader", load.measure_slow_reader, settings),
        ServerPart("load-streams", load.measure_streams, many),
    ]


def chosen(parts: Sequence[ServerPart | CallPart], only: Sequence[str]) -> list[ServerPart | CallPart]:
    """Return the parts whose names contain one of these texts; all without any."""
    return [part for part in parts if not only or any(text in part.name for text in only)]


def run(parts: Sequence[ServerPart | CallPart], plan: Plan, passes: int, results: Results, progress: Progress) -> None:
    """Measure every part in every pass. An interrupt (KeyboardInterrupt) ends the run; what was measured stays.

    What hinders one part is told, and the next one begins.
    """
    try:
        for number in range(1, passes + 1):
            told = partial(_told, progress, number, passes)
            for settings, group in itertools.groupby(parts, lambda part: getattr(part, "settings", None)):
                _run_group(settings, list(group), plan, results, told)
    except KeyboardInterrupt:
        results.is_interrupted = True
    results.failures += [f"left behind: {process}" for process in dict.fromkeys(results.left)]


def _told(progress: Progress, number: int, passes: int, what: str) -> None:
    progress(f"{what}, pass {number} of {passes}" if passes > 1 else what)


def _run_group(
    settings: Mapping[str, object] | None,
    group: Sequence[ServerPart | CallPart],
    plan: Plan,
    results: Results,
    progress: Progress,
) -> None:
    names = ", ".join(dict.fromkeys(part.name for part in group))
    with _told_as_failure(names, results):
        if settings is None:
            before = set(psutil.Process().children(recursive=True))
            for part in group:
                if isinstance(part, CallPart):
                    progress(part.name)
                    with _told_as_failure(part.name, results):
                        part.measure(plan, results)
            after = psutil.Process().children(recursive=True)
            results.left += [described(each) for each in after if each not in before]
            return
        progress(f"{names}: starting a server")
        with OwnServer(Path(jobs.__file__), settings) as own:
            try:
                server = BenchServer(own.url, own.pid)
                for part in group:
                    if isinstance(part, ServerPart):
                        progress(part.name)
                        with _told_as_failure(part.name, results):
                            interrupts.run(_bounded(part, server, plan, results))
            finally:
                with interrupts.delayed():
                    results.left += own.stop(at_once=True)


async def _bounded(part: ServerPart, server: BenchServer, plan: Plan, results: Results) -> None:
    try:
        async with asyncio.timeout(PART_S):
            await part.measure(server, plan, results)
    except TimeoutError as error:
        raise TimeoutError(f"not done within {PART_S:g} s") from error


@contextlib.contextmanager
def _told_as_failure(name: str, results: Results) -> Iterator[None]:
    """Make what a part cannot help a failure of its own: the others still count."""
    try:
        yield
    except* (KillableError, OSError, EOFError, RuntimeError, LookupError, ValueError, psutil.Error) as errors:
        for error in _leaves(errors):
            results.failures.append(f"{name}: {_words(error)}")


def _words(error: BaseException) -> str:
    if isinstance(error, KillableError):
        return error.message
    if isinstance(error, BlockingIOError):  # of fork(2)
        return "no process can be started: too many are there for `ulimit -u`, or for pids.max of the control group"
    if isinstance(error, (LookupError, ValueError)):
        return f"an answer is not as it should be: {type(error).__name__}: {error}"
    return str(error) or type(error).__name__


def _leaves(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
