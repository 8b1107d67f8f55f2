"""Where native code was when it crashed: the stack of a fault, and whose it is."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import itertools
import signal
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support.waiting import until

from killable import Executor, WorkerCrashed
from killable.supervisor.executor.futures import JobFuture

BEHIND_A_CHILDS = "segfault behind a child's"


@pytest.fixture(autouse=True)
def by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever those who run the tests want of faults."""
    monkeypatch.delenv("PYTHONFAULTHANDLER", raising=False)


@pytest.fixture(params=itertools.product(["fork", "spawn"], ["", "1"]), ids=str)
def beginning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How a worker begins: forked or exec'd, with and without PYTHONFAULTHANDLER."""
    start_method, enabled = request.param
    monkeypatch.setenv("PYTHONFAULTHANDLER", enabled)
    return {"start_method": start_method}


def crashed(executor: Executor, how: str) -> JobFuture[object]:
    future = executor.submit(executor_tasks.end_badly, how)
    with pytest.raises(WorkerCrashed):
        future.result()
    return future


def stack_of(future: JobFuture[object]) -> str:
    assert future.certificate is not None
    return str(future.certificate.get("stack", ""))


def test_a_crash_says_where_the_job_was(executor: Executor) -> None:
    stack = stack_of(crashed(executor, "segfault"))
    assert "in string_at" in stack and "in end_badly" in stack and "worker_loop.py" not in stack


def test_a_childs_fault_is_not_its_parents(executor: Executor) -> None:
    future = crashed(executor, BEHIND_A_CHILDS)
    assert "in end_badly" in stack_of(future) and "string_at" not in stack_of(future)
    assert future.stdout == ""


def test_a_childs_fault_is_shown_where_the_program_wanted_that() -> None:
    with Executor(max_workers=1, preload=faulthandler.enable) as executor:
        future = crashed(executor, BEHIND_A_CHILDS)
    assert "string_at" in future.stdout and "string_at" not in stack_of(future)


def test_what_a_library_makes_of_its_faults_is_left_to_it(
    beginning: dict[str, Any],
) -> None:
    """WebAssembly engines, for one, go on after a trap."""
    with Executor(max_workers=1, initializer=executor_tasks.handle_faults, **beginning) as executor:
        assert executor.submit(executor_tasks.fault_and_go_on).result() == [signal.SIGSEGV]


def test_what_a_job_makes_of_its_faults_holds_in_its_children() -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(executor_tasks.fault_in_child_and_go_on).result() == 0


def test_a_crash_leaves_its_stack_however_its_worker_began(
    beginning: dict[str, Any],
) -> None:
    with Executor(max_workers=1, **beginning) as executor:
        assert "in string_at" in stack_of(crashed(executor, "segfault"))


def test_a_crash_in_the_grace_shows_where_it_crashed(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(executor_tasks.crash_in_grace, str(tmp_path / "in"))
    until((tmp_path / "in").exists, "it runs")
    future.cancel()
    concurrent.futures.wait([future])
    stack = stack_of(future)
    assert "in string_at" in stack and "Extension" not in stack and "signal" not in stack
