"""What a task reports with `ctx.progress` is in its future, and calls back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
import talking_tasks
from support.waiting import Pending, until

from killable import Executor


def test_the_last_report_is_in_the_future(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(talking_tasks.report, 3, str(gate))
    until(lambda: future.progress == (3, 3, "rows") or Pending(future.progress), "the last report")
    assert not future.done()
    gate.touch()
    future.result()
    assert future.progress is not None and (future.progress.done, future.progress.total) == (3, 3)
    assert executor.submit(executor_tasks.add, 1, 2).progress is None


def test_callbacks_have_the_last_report_before_the_future_is_done(executor: Executor) -> None:
    for _ in range(20):
        future = executor.submit(talking_tasks.report, 50)
        told: list[tuple[Any, bool]] = []
        future.add_progress_callback(lambda progress, future=future, told=told: told.append((progress, future.done())))
        future.result()
        reports = [progress.done for progress, _ in told]
        assert reports == sorted(reports) and told[-1] == ((50, 50, "rows"), False), told[-1:]
    late: list[Any] = []
    future.add_progress_callback(late.append)
    until(lambda: late, "one that comes late has the last report")


def test_a_callback_that_raises_is_logged(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    future = executor.submit(talking_tasks.report, 1)
    future.add_progress_callback(lambda progress: 1 // 0)
    future.result()
    until(lambda: caplog.records, "it is logged")
    assert "exception calling progress callback" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_callback_that_blocks_holds_up_no_kill_and_no_other_task(
    own_executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reached, free = threading.Event(), threading.Event()

    def block(_progress: object) -> None:
        reached.set()
        free.wait()

    future = own_executor.submit(talking_tasks.report, 1, str(tmp_path / "never"))
    future.add_progress_callback(block)
    reached.wait()
    assert own_executor.submit(print, "shown when there is time").result() is None
    future.cancel(grace_s=0)
    future.wait_until_done()
    assert future.cancelled()
    assert capsys.readouterr().out == ""
    free.set()
    own_executor.shutdown()
    assert capsys.readouterr().out == "shown when there is time\n"
