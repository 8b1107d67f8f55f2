"""Long runs: done means that nothing is left, a cancel hits its own call only, a map over very much needs little.

Short runs of each with all others; long ones by hand: `pytest -m soak`.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.waiting import until

from killable import Executor, JobCancelled
from killable.supervisor.executor.futures import JobFuture

LONG = [pytest.mark.soak, pytest.mark.timeout(1800)]
WAYS = ("cancelled with grace", "killed", "timed out", "shot", "go away", "return", "segfault", "exit 0", "sys.exit")
WHEN = ("before it began", "while it ran", "as it ended", "afterwards")
FAMILY = 4
"""The worker, a child, a grandchild in a session of its own, and one whose parent is gone."""


def begin_trial(executor: Executor, way: str, tag: str, path: Path) -> JobFuture[Any]:
    """Start a call that has a family, and do to it what makes it end, once it is there."""
    limits: dict[str, Any] = {"grace_s": 0.02 if way == "cancelled with grace" else 0}
    if way == "timed out":
        limits["run_s"] = 0.1
    then = way if way in ("return", "segfault", "exit 0", "sys.exit") else "go on"
    future = executor.with_limits(**limits).submit(executor_tasks.leave_family, tag, str(path), then)
    if way in ("cancelled with grace", "killed", "shot"):
        worker = int(until(lambda: path.exists() and path.read_text(), "the family is there"))
        assert len(processes.named(tag)) == FAMILY, "the look into /proc sees it"
        if way == "shot":
            os.kill(worker, signal.SIGKILL)
        else:
            future.cancel()
    elif way == "go away":  # at any moment of its forking
        until(future.running, "it runs")
        executor_tasks.count_to(random.randrange(200_000))
        future.cancel()
    return future


@pytest.mark.parametrize("trials", [45, pytest.param(1000, marks=LONG)])
def test_done_means_that_no_process_of_it_exists(executor: Executor, tmp_path: Path, trials: int) -> None:
    left: list[tuple[str, str, list[processes.ProcessInfo]]] = []
    told = 0
    for number, way in zip(range(trials), itertools.cycle(WAYS), strict=False):
        tag, path = f"kx{os.getpid() % 10**6}.{number}", tmp_path / str(number)
        seen: list[list[processes.ProcessInfo]] = []
        future = begin_trial(executor, way, tag, path)
        future.add_done_callback(lambda _, tag=tag, seen=seen: seen.append(processes.named(tag)))
        concurrent.futures.wait([future])
        now = processes.named(tag)
        until(lambda seen=seen: seen, "the callback was called")
        left += [(way, when, alive) for when, alive in (("wait", now), ("callback", seen[0])) if alive]
        assert future.done() and future.certificate is not None
        told += future.certificate["processes_swept"] >= FAMILY - 2
    assert left == []
    assert told > trials // 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_cancel_at_any_moment_hits_its_own_call_only(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    ends: list[JobFuture[Any]] = []
    moments: Counter[str] = Counter()
    with Executor(max_workers=3, grace_s=10) as executor:
        gate = str(tmp_path / "gate")
        bystander = executor.submit(executor_tasks.wait_for, gate)
        until(bystander.running, "it runs")
        for number in range(500):
            size, when = chance.randrange(20_000), chance.choice(WHEN)
            if when == "while it ran":
                size *= 50  # or it is over on a busy machine before it is cancelled
            before = [
                executor.submit(executor_tasks.count_to, 20_000) for _ in range(2 if when == "before it began" else 0)
            ]
            victim = executor.submit(executor_tasks.count_to, size)
            innocent = executor.submit(executor_tasks.square, number)
            for each in (victim, innocent):
                each.add_done_callback(ends.append)
            while when == "while it ran" and not (victim.running() or victim.done()):
                pass  # at once, and not at the next look of `until`: the call is over by then
            while when == "afterwards" and not victim.done():
                pass
            if when == "as it ended":
                executor_tasks.count_to(chance.randrange(30_000))
            accepted = victim.cancel()
            after = executor.submit(executor_tasks.square, -number)
            after.add_done_callback(ends.append)
            assert not concurrent.futures.wait([*before, victim, innocent, after], timeout=50).not_done, (number, seed)
            assert (innocent.result(), after.result()) == (number**2, number**2), (number, seed)
            if victim.cancelled():
                assert accepted and isinstance(victim.error, JobCancelled), (number, seed)
                moments["before it began" if victim.pid is None else "while it ran"] += 1
            else:
                assert victim.result() == size, (number, seed)
                moments["as it ended" if accepted else "afterwards"] += 1
        executor_tasks.say(gate)
        assert bystander.result() == str(os.getpid())
    print(moments)
    assert len(ends) == len(set(ends)) == 1500, "each has ended once"
    assert min(moments[when] for when in ("before it began", "while it ran", "afterwards")) > 20, moments


@pytest.mark.parametrize(("count", "chunksize"), [(10**5, 50), pytest.param(10**7, 2000, marks=LONG)])
def test_a_map_over_very_much_needs_little(count: int, chunksize: int) -> None:
    program = """
        import sys
        import executor_tasks
        from killable import Executor

        def most():
            with open("/proc/self/status") as file:
                return next(line.split()[1] for line in file if line.startswith("VmHWM"))

        count, chunksize = map(int, sys.argv[1:])
        def numbers():
            global drawn
            for drawn in range(count):
                yield drawn & 255

        total = drawn = 0
        with Executor(max_workers=2) as executor:
            results = executor.map(executor_tasks.square, numbers(), chunksize=chunksize, buffersize=16)
            for number, squared in enumerate(results):
                total += squared
                assert drawn - number <= 18 * chunksize, (drawn, number)
                if number == count // 10:
                    early = most()
        print(total, early, most())
    """
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(count), str(chunksize)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"},
    )  # fmt: skip
    total, early_kib, most_kib = map(int, done.stdout.split())
    whole, rest = divmod(count, 256)
    assert total == whole * sum(n * n for n in range(256)) + sum(n * n for n in range(rest))
    print("most", most_kib, "KiB, after a tenth of it", early_kib)
    assert most_kib << 10 < 200_000_000 and (most_kib - early_kib) << 10 < 10_000_000
