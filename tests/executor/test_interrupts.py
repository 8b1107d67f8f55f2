"""Ctrl-C in a program with an Executor, typed into its terminal: it stops calls, and it is said what is waited for."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import processes
from support.waiting import Pending, until

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
PRELUDE = """
    import asyncio
    import fcntl
    import signal
    import sys
    import termios
    import threading
    import time
    import executor_tasks
    from killable import Executor

    if sys.stdin.isatty():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
CTRL_C = b"\x03"


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._read = b""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def shows(self, text: str) -> None:
        """Wait until the screen has a text."""

        def found() -> bool | Pending:
            return text in self.text or Pending(self.text)

        until(found, text)

    @property
    def text(self) -> str:
        """What stands on the screen by now."""
        try:
            while block := os.read(self._master, 1 << 16):
                self._read += block
        except OSError:  # EAGAIN: no more yet; EIO: the last process that had it open has ended (pty(7))
            pass
        return self._read.decode().replace("\r\n", "\n")

    def ends(self) -> int:
        return self.process.wait(60)


@contextmanager
def terminal(program: str, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    command = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(program), *arguments]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    try:
        with subprocess.Popen(command, cwd=HERE, env=ENVIRONMENT, start_new_session=True, **streams) as process:
            os.close(theirs)
            try:
                yield Terminal(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)


def pid_in(path: Path) -> int:
    until(path.exists, f"{path.name} is there")
    return int(path.read_text())


def is_gone(pid: int) -> bool:
    return processes.read_process(pid) is None


def test_a_program_that_has_caught_one_says_what_it_waits_for_and_the_next_one_ends_it(tmp_path: Path) -> None:
    program = """
        executor = Executor(max_workers=2)
        for number in range(3):
            executor.submit(executor_tasks.loop, sys.argv[1] + str(number))
        try:
            print("ready")
            time.sleep(1000)
        except KeyboardInterrupt:
            print("caught")
    """
    with terminal(program, str(tmp_path / "in-")) as screen:
        pids = [pid_in(tmp_path / "in-0"), pid_in(tmp_path / "in-1")]
        screen.shows("ready\n")
        screen.type(CTRL_C)
        screen.shows("killable: waiting for 3 calls to end; press Ctrl-C to stop them\n")
        assert not any(map(is_gone, pids))
        screen.type(CTRL_C)
        assert screen.ends() == 0
        assert all(map(is_gone, pids))
        assert screen.text.startswith("ready\n^Ccaught\nkillable: waiting for 3 calls to end;")
        assert "Traceback" not in screen.text


def test_one_more_kills_what_takes_its_time(tmp_path: Path) -> None:
    program = """
        executor = Executor(max_workers=1, grace_s=600, ack_s=None)
        executor.submit(executor_tasks.clean_up_for_ever, *sys.argv[1:])
    """
    with terminal(program, str(tmp_path / "in"), str(tmp_path / "stopping")) as screen:
        pid_in(tmp_path / "in")
        screen.shows("killable: waiting for 1 call to end; press Ctrl-C to stop it\n")
        screen.type(CTRL_C)
        pid = pid_in(tmp_path / "stopping")
        screen.shows("killable: waiting for 1 call to stop; press Ctrl-C again to kill it\n")
        screen.type(CTRL_C)
        assert screen.ends() == 0 and is_gone(pid)
        assert "Traceback" not in screen.text


WAITS = {
    "result": "executor.submit(executor_tasks.loop, path).result()",
    "map": "list(executor.map(executor_tasks.loop, [path]))",
    "map_unordered": "list(executor.map_unordered(executor_tasks.loop, [path]))",
    "stream": "kept = executor.stream(executor_tasks.say_and_wait, path); next(kept)",
    "with": "with executor: executor.submit(executor_tasks.loop, path); time.sleep(1000)",
    "end of a with": "with executor: executor.submit(executor_tasks.loop, path)",
    "asyncio": "asyncio.run(awaited())",
    "async with": "asyncio.run(left())",
    "terminate_workers": "executor.submit(executor_tasks.clean_up_for_ever, path + '-', path); terminate()",
}


@pytest.mark.parametrize("wait", WAITS)
def test_one_ends_what_the_program_waits_for(wait: str, tmp_path: Path) -> None:
    """It is caught, and the program ends: it need not wait for anything."""
    program = f"""
        path = sys.argv[1]
        executor = Executor(max_workers=1, grace_s=600 if "terminate" in sys.argv[2] else 5, ack_s=None)

        async def awaited():
            await asyncio.wrap_future(executor.submit(executor_tasks.loop, path))

        async def left():
            async with executor:
                executor.submit(executor_tasks.loop, path)

        def terminate():
            while not executor_tasks.os.path.exists(path + "-"):
                time.sleep(0.01)
            executor.terminate_workers()

        try:
            {WAITS[wait]}
        except KeyboardInterrupt:
            print("caught")
    """
    with terminal(program, str(tmp_path / "in"), wait) as screen:
        pid = pid_in(tmp_path / "in")
        screen.type(CTRL_C)
        assert screen.ends() == 0 and is_gone(pid)
        assert "caught\n" in screen.text and "Traceback" not in screen.text


def test_one_ends_a_program_whose_other_thread_waits(tmp_path: Path) -> None:
    """Uncaught: it ends the main thread, the call, and with that the thread that waits for it."""
    program = """
        executor = Executor(max_workers=1)
        future = executor.submit(executor_tasks.loop, sys.argv[1])

        def wait():
            try:
                future.result()
            except Exception as error:
                print(type(error).__name__)

        threading.Thread(target=wait).start()
        time.sleep(1000)
    """
    with terminal(program, str(tmp_path / "in")) as screen:
        pid = pid_in(tmp_path / "in")
        screen.type(CTRL_C)
        assert screen.ends() == -signal.SIGINT and is_gone(pid)
        assert screen.text.count("Traceback") == 1 and "JobCancelled\n" in screen.text


def test_a_program_without_a_terminal_says_nothing(tmp_path: Path) -> None:
    """Nobody would read it; and it ends by the same signals."""
    # Twice as long as what would be said waits. The call computes as long as that.
    program = f"{textwrap.dedent(PRELUDE)}Executor(1, grace_s=2).submit(executor_tasks.ignore_sigterm, sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "in")],
        cwd=HERE, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        pid = pid_in(tmp_path / "in")
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60) == (None, b"")
    assert running.returncode == 0 and is_gone(pid)


def test_an_interrupted_cell_of_a_notebook_ends_its_call_and_the_next_cell_runs(tmp_path: Path) -> None:
    """A kernel runs its cells in a coroutine, gets SIGINT, and keeps the traceback of the last error."""
    program = """
        async def kernel(cells):
            for cell in cells:
                try:
                    exec(cell, globals())
                except BaseException as error:
                    sys.last_traceback = error.__traceback__
                    print(type(error).__name__, flush=True)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(kernel([
            "executor = Executor(max_workers=1)",
            "executor.submit(executor_tasks.loop, sys.argv[1]).result()",
            "for _ in executor.stream(executor_tasks.say_and_wait, sys.argv[2]): pass",
            "print(executor.submit(executor_tasks.square, 3).result(), flush=True)",
            "executor.shutdown()",
        ]))
        loop.close()
    """
    arguments = textwrap.dedent(PRELUDE) + textwrap.dedent(program), str(tmp_path / "one"), str(tmp_path / "two")
    with subprocess.Popen(
        [sys.executable, "-c", *arguments],
        cwd=HERE, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as kernel:  # fmt: skip
        for name in ("one", "two"):
            pid_in(tmp_path / name)
            kernel.send_signal(signal.SIGINT)
        said = kernel.communicate(timeout=60)
    assert said == (b"KeyboardInterrupt\nKeyboardInterrupt\n9\n", b"") and kernel.returncode == 0
