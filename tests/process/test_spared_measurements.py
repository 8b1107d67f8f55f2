"""A job that starts nothing is not measured for limits of processes and threads, and one that does is at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from support.waiting import Pending, until_async

from killable.supervisor.attempts.resource_monitor import ResourceMonitor
from killable.supervisor.clock import Clock
from killable.supervisor.linux import tree_usage
from killable.supervisor.linux.tree_usage import LastLook
from killable.supervisor.models import Verdict
from killable.supervisor.ports import Sample
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over

NONE = over(DEFAULT_LIMITS, {"memory_bytes": None, "cpu_s": None, "processes_max": None, "threads_max": None})
COMPUTES = """
import os, threading, time
os.set_blocking(0, False)
while True:
    try:
        os.read(0, 1)
    except BlockingIOError:
        continue
    break
"""
"""Until a byte comes: who has not run is not measured anyway."""


class Measured:
    """A process as a worker's is measured, and how often that is done."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, process_group=0)
        self.base: Sample | None = None
        self._last_look = LastLook()
        self.spared = 0

    def note_base(self, *, cpu: bool = True) -> None:
        self.base = tree_usage.measure(self.process.pid, None, cpu=cpu, at_most=1)

    def bound(self, memory_bytes: int | None, tasks_max: int | None) -> None: ...

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        return self._last_look.measure(self.process.pid, None, cpu=cpu, at_most=at_most)

    def has_started_none_since(self, sample: Sample) -> bool:
        is_spared = tree_usage.has_started_none_since(sample)
        self.spared += is_spared
        return is_spared

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None: ...


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[Measured]:
    made = Measured(sys.executable, "-c", COMPUTES + request.param)
    yield made
    os.killpg(made.process.pid, signal.SIGKILL)
    made.process.communicate()


@pytest.mark.row("D19")
@pytest.mark.parametrize(
    ("measured", "limit", "code"),
    [
        ("os.fork(); time.sleep(100)", "processes_max", "limit.processes"),
        ("threading.Thread(target=time.sleep, args=[100]).start()", "threads_max", "limit.threads"),
    ],
    indirect=["measured"],
    ids=["process", "thread"],
)
async def test_who_starts_none_is_not_measured(measured: Measured, limit: str, code: str) -> None:
    found: list[Verdict] = []

    def stop(verdict: Verdict, grace_s: float | None = None) -> None:
        found.append(verdict)

    clock = Clock(asyncio.get_running_loop())
    monitor = ResourceMonitor(measured, over(NONE, {limit: 1}), clock, cores=2, stop=stop)
    monitor.prepare(has_order=False)
    monitor.begin(clock.now())

    await until_async(lambda: measured.spared > 3 or Pending(measured.spared), "the machine starts none for a moment")
    assert not found
    assert measured.process.stdin is not None
    measured.process.stdin.write(b"\n")
    measured.process.stdin.flush()
    await until_async(lambda: found and found[0].code == code, "it is found")
    monitor.close()
