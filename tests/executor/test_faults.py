"""Where native code was when it crashed: the stack of a fault, and whose it is."""

from __future__ import annotations

import faulthandler
import signal

import pytest
import work

from killable import Executor, WorkerCrashed
from killable.supervisor.executor.futures import JobFuture

BEHIND_A_CHILDS = "segfault behind a child's"


def crashed(executor: Executor, how: str) -> JobFuture[object]:
    future = executor.submit(work.end_badly, how)
    with pytest.raises(WorkerCrashed):
        future.result()
    return future


def stack_of(future: JobFuture[object]) -> str:
    assert future.certificate is not None
    return str(future.certificate.get("stack", ""))


def test_a_crash_says_where_the_job_was(executor: Executor) -> None:
    stack = stack_of(crashed(executor, "segfault"))
    assert "in string_at" in stack and "in end_badly" in stack and "harness.py" not in stack


def test_a_childs_fault_is_not_its_parents(executor: Executor) -> None:
    future = crashed(executor, BEHIND_A_CHILDS)
    assert "in end_badly" in stack_of(future) and "string_at" not in stack_of(future)
    assert future.stdout == ""


def test_a_childs_fault_is_shown_where_the_program_wanted_that() -> None:
    with Executor(max_workers=1, preload=faulthandler.enable) as executor:
        future = crashed(executor, BEHIND_A_CHILDS)
    assert "string_at" in future.stdout and "string_at" not in stack_of(future)


def test_what_a_library_makes_of_its_faults_is_left_to_it() -> None:
    """WebAssembly engines, for one, go on after a trap."""
    with Executor(max_workers=1, initializer=work.handle_faults) as executor:
        assert executor.submit(work.fault_and_go_on).result() == [signal.SIGSEGV]
