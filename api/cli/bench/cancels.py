"""How long a cancel takes until the job is dead, in several kinds of job, beside a bare SIGKILL.

Runs in: a benchmark (Linux).

    cancel ──► SIGTERM ──► acknowledged ──► SIGKILL ──► tree empty     the certificate's phases, of the server
       └───────────────────────────────────────► dead                  a watching process, by pidfd
       └──────────────────────────────────────────────► told           the answer with the certificate
"""

from __future__ import annotations

import asyncio
import random
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass

from killable.api.cli.bench.bare_process import BareProcess
from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.raw_connection import RawConnection
from killable.api.cli.bench.results import Results, Row
from killable.api.cli.bench.server_calls import BenchServer
from killable.api.explanation.state_words import PHASES

SETTLE_S = (0.02, 0.04)
"""From the first token to the cancel, at random: deep in the call, at any moment of the scheduler's turn."""
GRACE_S = 0.5
"""For those that will not go by themselves. Python loops end long before it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to cancel one kind of job. `grace_s` 0: SIGKILL at once, which has a bare one beside it."""

    job_type: str
    what: str
    grace_s: float

    @property
    def is_at_once(self) -> bool:
        return self.grace_s == 0


CASES: dict[str, tuple[Case, ...]] = {
    "cancel-python": (
        Case("python_loop", "Python loop, killed", 0),
        Case("python_loop", "Python loop, asked", GRACE_S),
    ),
    "cancel-native": (
        Case("native_loop", "native call, killed", 0),
        Case("native_loop", f"native call, asked, {GRACE_S:g} s", GRACE_S),
    ),
    "cancel-ignoring": (
        Case("ignores_sigterm", "ignores SIGTERM, killed", 0),
        Case("ignores_sigterm", f"ignores SIGTERM, asked, {GRACE_S:g} s", GRACE_S),
    ),
    "cancel-tree": (Case("tree", "tree of 4 processes, killed", 0),),
}
"""The cases of each part."""


async def measure(part: str, server: BenchServer, plan: Plan, results: Results, chance: random.Random) -> None:
    """Cancel jobs of one kind, at once and with a grace, each in turn with a bare process."""
    with PidfdWatcher() as watcher:
        async with server.connected() as caller:
            for case in _trials(CASES[part], plan, chance):
                row = results.row_of(part, case.what, "ms")
                await _cancel(server, caller, watcher, case, row, chance)
                if case.is_at_once:
                    await _kill(watcher, case, row, chance)


def _trials(cases: tuple[Case, ...], plan: Plan, chance: random.Random) -> Iterator[Case]:
    """Yield each case as often as is planned, in the order of chance: what disturbs some disturbs all alike."""
    trials = [case for case in cases for _ in range(plan.kills if case.is_at_once else plan.asked)]
    first = list(dict.fromkeys(trials))  # rows stand in the order of the cases
    chance.shuffle(trials)
    for case in first:
        trials.remove(case)
    yield from (*first, *trials)


async def _cancel(
    server: BenchServer, caller: RawConnection, watcher: PidfdWatcher, case: Case, row: Row, chance: random.Random
) -> None:
    await server.wait_until_warm(caller)
    job = await server.start(caller, case.job_type)
    await asyncio.sleep(chance.uniform(*SETTLE_S))
    watched = [watcher.watch(pid) for pid in job.pids]
    cancelled_at = time.monotonic()
    record = await caller.request("DELETE", f"/v1/jobs/{job.job_id}?grace_s={case.grace_s:g}")
    told_at = time.monotonic()
    alive = len(watched) - len(select.select([each.pidfd for each in watched], (), (), 0)[0])
    if record["status"] != "cancelled":
        raise RuntimeError(f"not cancelled: {record}")
    dead_at = [watcher.died_at(each) for each in watched]
    row.values.append((max(dead_at) - cancelled_at) * 1000)
    row.told.append((told_at - cancelled_at) * 1000)
    row.add_phases(record["certificate"] or {}, PHASES)
    row.count("alive_when_told", alive)


async def _kill(watcher: PidfdWatcher, case: Case, row: Row, chance: random.Random) -> None:
    """Kill a bare process in the same way. Its children are nobody's business then: they are counted."""
    with BareProcess(case.job_type) as process:
        await asyncio.sleep(chance.uniform(*SETTLE_S))
        row.bare.append(process.kill() * 1000)
        row.count("bare_left", process.left())
