"""The errors of killed and crashed tasks say, in notes, where the task stood and what it wrote to stderr."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import executor_tasks
import pytest
import talking_tasks

from killable import Executor, JobCancelled, JobTimedOut, OutOfMemory, WorkerCrashed


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_crash_shows_its_stack_and_its_last_lines(executor: Executor) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        executor.submit(talking_tasks.crash_after_words).result()
    stack, words = caught.value.__notes__
    assert stack.startswith("Where the job stood when it crashed:\n") and "in crash_after_words" in stack
    assert words == "Its last lines on stderr:\n" + "\n".join(f"  line {number}" for number in range(20, 30))
    assert "in crash_after_words" in shown(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).__notes__ == [stack, words]


def test_a_timeout_and_a_cancel_show_where_the_task_stood(executor: Executor, tmp_path: Path) -> None:
    native = executor_tasks.hold_the_lock
    with pytest.raises(JobTimedOut) as timed_out:
        executor.with_limits(run_s=0.5, ack_s=0.1).submit(native, str(tmp_path / "one")).result()
    future = executor.with_limits(ack_s=0.1).submit(native, str(tmp_path / "two"))
    executor_tasks.wait_for(str(tmp_path / "two"))
    future.cancel()
    with pytest.raises(JobCancelled) as cancelled:
        future.result()
    for caught in (timed_out, cancelled):
        (note,) = caught.value.__notes__
        assert note.startswith("Where the job stood when it was stopped:\n") and "in hold_the_lock" in note


def test_a_task_that_had_not_begun_has_no_notes(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        executor.submit(executor_tasks.loop, str(tmp_path / "there"))
        waiting = executor.submit(executor_tasks.add, 1, 2)
        waiting.cancel()
        with pytest.raises(JobCancelled) as caught:
            waiting.result()
        executor.kill_workers()
    assert not hasattr(caught.value, "__notes__")


def test_sizes_are_as_people_write_them(executor: Executor) -> None:
    with pytest.raises(OutOfMemory, match=r"^memory_bytes of 64 MiB was reached: its process had grown by \d+ MiB\n"):
        executor.with_limits(memory_bytes="64MiB").submit(executor_tasks.grow).result()
