"""Signals are the program's: no thread of an Executor takes one that the program's own threads block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
from support.waiting import Pending, until

from killable import Context, Executor

BLOCKS = """
import os, signal
from killable import Executor

with Executor(max_workers=1) as executor:
    executor.submit(print, "printed", flush=True).result()  # by the thread that shows output, too
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
    print(signal.sigwait({signal.SIGTERM}).name)
"""


def test_a_signal_that_the_program_blocks_waits_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "printed\nSIGTERM\n")


MASK = "[line for line in open('/proc/self/status') if line.startswith('SigBlk')]"


def blocked(*_: object) -> list[str]:
    """Return the mask of a program that this thread starts."""
    program = [sys.executable, "-c", f"import json; print(json.dumps({MASK}))"]
    said: list[str] = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    return said


def report(ctx: Context) -> list[str]:
    ctx.progress(1, 1)
    return blocked()


def test_what_callbacks_and_calls_start_blocks_what_the_program_blocks() -> None:
    found: list[list[str]] = []
    with Executor(max_workers=1) as executor:
        future = executor.submit(report)
        future.add_progress_callback(lambda _: found.append(blocked()))
        future.add_done_callback(lambda _: found.append(blocked()))
        found.append(future.result())
    assert found == [blocked()] * 3


def test_processes_that_the_executors_thread_starts_block_nothing() -> None:
    """The first guard is the program's thread's. One that has died is replaced by the Executor's."""
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result()
        guards = [each for each in psutil.Process().children() if each in psutil.Process(pid).parents()]
        for guard in guards:
            guard.kill()
        until(lambda: not any(guard.is_running() for guard in guards) or Pending(guards), "the guard is gone")
        processes = psutil.Process(executor.submit(os.getpid).result()).parents()
        processes = processes[: processes.index(psutil.Process())]
        assert processes and not set(guards) & set(processes)
        for each in processes:
            # While a process forks, it blocks all for a moment (fork(3) of glibc).
            until(lambda pid=each.pid: not _blocked(pid) or Pending(hex(_blocked(pid))), "it blocks nothing")


def _blocked(pid: int) -> int:
    (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigBlk" in line]
    return int(mask.split()[1], 16)
