"""What a task prints comes out on the program's own stdout and stderr, and holds up nothing there."""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import executor_tasks
import pytest
import talking_tasks
from support.waiting import Pending, until

from killable import Executor, JobCancelled, WorkerCrashed
from killable.supervisor.executor.output_relay import ROOM_BYTES

TESTS = Path(__file__).parent.parent


def script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True, text=True, timeout=240, cwd=TESTS / "executor",
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip


@contextlib.contextmanager
def blocked_stdout() -> Iterator[tuple[int, int]]:
    """Have a stdout that nobody reads; give the ends of its pipe."""
    reading, writing = os.pipe()
    with contextlib.ExitStack() as ends:
        ends.callback(os.close, writing)
        stdout = ends.enter_context(open(writing, "w", closefd=False))
        # Before that is closed: who waits in its write holds a lock of it, and no alarm of a timeout would be heard.
        ends.callback(os.close, reading)
        ends.enter_context(contextlib.redirect_stdout(stdout))
        yield reading, writing


def test_what_a_task_prints_comes_out_where_it_was_printed(
    executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    future = executor.submit(talking_tasks.print_to_both)
    future.result()
    assert capsys.readouterr() == ("to stdout\npast Python\ncaf\u00e9, no line end", "to stderr\n")
    assert future.stderr == "to stderr\n"
    assert sorted(future.stdout.splitlines()) == ["caf\u00e9, no line end", "past Python", "to stderr", "to stdout"]
    assert [*executor.map(print, "ab")] == [None, None]
    assert sorted(capsys.readouterr().out.splitlines()) == ["a", "b"]


def test_a_task_closes_or_redirects_its_own_output_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Executor(max_workers=1) as executor:
        for spoil in (
            talking_tasks.close_outputs, talking_tasks.redirect_outputs, talking_tasks.close_streams,
            talking_tasks.detach_streams,
        ):  # fmt: skip
            pid = executor.submit(spoil).result()
            future = executor.submit(talking_tasks.print_to_both)
            future.result()
            assert future.pid == pid  # it need not be replaced
            assert capsys.readouterr() == ("to stdout\npast Python\ncaf\u00e9, no line end", "to stderr\n")


def test_characters_of_a_long_line_stay_whole(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a" + 200_000 * "\u20ac"
    executor.submit(print, text, end="").result()
    assert capsys.readouterr().out == text


def test_it_goes_to_the_streams_that_are_in_force(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as taken:
        executor.submit(print, "taken").result()
    assert taken.getvalue() == "taken\n"
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) as narrow:
        executor.submit(talking_tasks.print_to_both).result()
    narrow.seek(0)
    assert narrow.read() == "to stdout\npast Python\ncaf\\xe9, no line end"
    closed = io.StringIO()
    closed.close()
    for broken in (closed, None):
        with contextlib.redirect_stdout(broken):  # type: ignore[type-var]
            executor.submit(print, "nowhere").result()
    assert capsys.readouterr().out == ""


def test_it_is_written_in_the_context_that_submitted_the_task(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this Jupyter finds the cell."""
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell")

    class Notebook(io.StringIO):
        def write(self, text: str) -> int:
            return super().write(f"{cell.get()}: {text}")

    notebook = Notebook()
    monkeypatch.setattr(sys, "stdout", notebook)
    for name in ("cell 1", "cell 2"):
        cell.set(name)
        future = executor.submit(print, "printed")
        cell.set("another cell")
        future.result()
    assert notebook.getvalue() == "cell 1: printed\ncell 2: printed\n"


def test_lines_come_while_the_task_runs(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with contextlib.redirect_stdout(io.StringIO()) as taken:
        future = executor.submit(talking_tasks.print_and_wait, str(gate))
        until(lambda: taken.getvalue() == "before\n" or Pending(taken.getvalue()), "the first line")
        gate.touch()
        future.result()
    assert taken.getvalue() == "before\nhalf of a line\n"


def test_captured_output_is_in_the_future_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Executor(max_workers=1, capture=True) as executor:
        future = executor.submit(print, "kept")
        future.result()
    assert future.stdout == "kept\n" and capsys.readouterr() == ("", "")


def test_an_initializer_prints_too_and_into_no_future(capsys: pytest.CaptureFixture[str]) -> None:
    with Executor(max_workers=1, spares=0, initializer=print, initargs=("made ready",)) as executor:
        future = executor.submit(print, "called")
        future.result()
    assert capsys.readouterr().out == "made ready\ncalled\n" and future.stdout == "called\n"


def test_what_was_printed_before_a_kill_comes_out(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerCrashed):
        executor.submit(talking_tasks.print_and_die).result()
    assert capsys.readouterr() == ("no line end", "last words\n")


def test_a_blocked_stdout_holds_up_neither_kills_nor_other_tasks() -> None:
    with Executor(max_workers=2, grace_s=100) as executor, blocked_stdout() as (reading, _):
        flood = executor.submit(talking_tasks.print_for_ever)
        relay = executor._tasks.output.relay
        until(lambda: relay.is_stuck, "nothing is written any more")
        assert executor.submit(executor_tasks.add, 1, 2).result() == 3
        assert executor.submit(print, "not shown yet").result() is None
        until(lambda: relay.is_full, "its worker waits in its write")
        assert relay._bytes < 2 * ROOM_BYTES
        flood.cancel()
        with pytest.raises(JobCancelled) as cancelled:
            flood.result()
        assert cancelled.value.certificate["last_signal"] == "SIGTERM", "it can end by itself"
        flood = executor.submit(talking_tasks.print_for_ever)
        until(flood.running, "another one")
        flood.cancel(grace_s=0)
        with pytest.raises(JobCancelled):
            flood.result()
        executor.kill_workers()
        assert not relay.is_idle
        drain = threading.Thread(target=lambda: [*iter(lambda: os.read(reading, 1 << 16)[-1:] == b"!", True)])
        drain.start()
        executor.shutdown()
        print("!", end="", flush=True)
        drain.join()


def test_a_slow_reader_loses_nothing() -> None:
    lines = 3 * ROOM_BYTES // 64
    with Executor(max_workers=1) as executor, blocked_stdout() as (reading, writing):
        future = executor.submit(talking_tasks.print_lines, lines)
        until(lambda: executor._tasks.output.relay.is_full, "there is no room")
        assert not future.done()
        taken: list[bytes] = []
        reader = threading.Thread(target=lambda: taken.extend(iter(lambda: os.read(reading, 1 << 16), b"END")))
        reader.start()
        future.result()
        executor.shutdown()
        until(lambda: sum(map(len, taken)) == 64 * lines or Pending(sum(map(len, taken))), "all of it")
        os.write(writing, b"END")
        reader.join()
    assert b"".join(taken) == b"".join(b"%063d\n" % number for number in range(lines))


def test_nothing_is_lost_at_the_end_of_the_program() -> None:
    """However its executors end."""
    done = script("""
        import talking_tasks
        from killable import Executor
        waited, left, dropped, open = (Executor(max_workers=1, spares=0) for _ in range(4))
        for each in (waited, left, dropped, open):
            each.submit(talking_tasks.print_lines, 2000)
            each.submit(talking_tasks.print_to_both)
        waited.shutdown()
        left.shutdown(wait=False)
        del dropped
        """)
    assert (done.returncode, done.stderr) == (0, "to stderr\n" * 4)
    lines = done.stdout.replace("no line end", "no line end\n").splitlines()
    assert len(lines) == 4 * 2003 and all(lines.count(f"{number:063}") == 4 for number in range(2000))


def test_a_program_without_streams_goes_on() -> None:
    done = script("""
        import sys, os, talking_tasks
        from killable import Executor
        sys.stdout = sys.stderr = None
        os.close(1)
        with Executor(max_workers=1) as executor:
            future = executor.submit(talking_tasks.print_to_both)
            future.result()
        os.write(2, future.stderr.encode())
        """)
    assert (done.returncode, done.stderr) == (0, "to stderr\n")
