"""Drop-in: tqdm's `process_map`, dask and toolz, which many use, compute on an Executor, and some of it goes wrong."""

from __future__ import annotations

import concurrent.futures
import io
import operator
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
import tqdm
from support import processes
from support.late_import import LateImport
from support.waiting import until
from toolz.sandbox.parallel import fold
from tqdm.contrib.concurrent import process_map

from killable import Executor, JobTimedOut, WorkerCrashed

dask, bag = LateImport("dask"), LateImport("dask.bag")

# ── tqdm: constructs its executor itself ──


def in_its_place(**options: Any) -> Executor:
    """Make one of ours with tqdm's options, but the lock, for bars in workers: that cannot be sent."""
    del options["initializer"], options["initargs"]
    made = Executor(grace_s=0, **options)
    made.submit(executor_tasks.square, 1).result()  # its start is not to be in the time of what is timed
    return made


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a progress bar that has no thread of its own, and writes where a test can read it."""
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", in_its_place)
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    return {"file": io.StringIO(), "mininterval": 0, "miniters": 1, "max_workers": 2}


def test_process_map_of_tqdm(bar: dict[str, Any]) -> None:
    squares = process_map(executor_tasks.square, range(100), **bar)
    assert squares == [number * number for number in range(100)]
    assert "90/100 [" in bar["file"].getvalue()  # the last are told while the bar is closed already


def test_process_map_of_tqdm_tells_a_crash(bar: dict[str, Any]) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        process_map(executor_tasks.end_badly, ["well", "well", "segfault", "well"], **bar)
    assert isinstance(caught.value, BrokenProcessPool)


def test_process_map_of_tqdm_runs_out_of_time(bar: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        process_map(executor_tasks.sleep_at, range(6), [str(tmp_path / "in")] * 6, timeout=4, **bar)
    assert processes.read_process(int((tmp_path / "in").read_text())) is None, (
        "the call that took too long has been ended"
    )


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="a lock of multiprocessing cannot be an initializer's")
def test_process_map_of_tqdm_with_its_lock(bar: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Executor)
    assert process_map(executor_tasks.square, range(3), **bar) == [0, 1, 4]


# ── dask: is given one ──


def test_dask_computes_on_it(executor: Executor) -> None:
    lines = ["a job you start", "you can stop", "a job"] * 20
    with dask.config.set(pool=executor, scheduler="processes"):
        words = bag.from_sequence(lines, npartitions=8).map(str.split).flatten().frequencies().compute()
    assert dict(words) == Counter(" ".join(lines).split())
    squares = [dask.delayed(executor_tasks.square)(number) for number in range(20)]
    assert dask.delayed(sum)(squares).compute(scheduler=executor) == sum(number * number for number in range(20))


def test_dask_tells_a_crash_and_computes_again(executor: Executor) -> None:
    ends = [dask.delayed(executor_tasks.end_badly)(how) for how in ("well", "segfault", "well")]
    with dask.config.set(pool=executor, scheduler="processes"):
        with pytest.raises(WorkerCrashed):
            dask.compute(*ends)
        assert dask.compute(*ends[::2]) == ("alive", "alive")


def test_dask_with_a_limit_for_each_task(executor: Executor, tmp_path: Path) -> None:
    stuck = dask.delayed(executor_tasks.hold_the_lock)(str(tmp_path / "in"))
    with pytest.raises(JobTimedOut):
        dask.delayed(executor_tasks.add)(stuck, 1).compute(scheduler=executor.with_limits(run_s=2, grace_s=0))
    pid = int(until(lambda: (tmp_path / "in").exists() and (tmp_path / "in").read_text(), "it has run"))
    assert processes.read_process(pid) is None
    assert dask.delayed(executor_tasks.add)(2, 1).compute(scheduler=executor) == 3


# ── toolz: is given its `map` ──


def test_toolz_folds_on_it(executor: Executor) -> None:
    assert fold(operator.add, range(1000), 0, map=executor.map, chunksize=100) == sum(range(1000))
    with pytest.raises(WorkerCrashed):
        fold(executor_tasks.add_and_crash_at_seven, range(10), 0, map=executor.map, chunksize=5)
    assert fold(operator.mul, range(1, 10), 1, map=executor.map, chunksize=3, combine=operator.mul) == 362880
