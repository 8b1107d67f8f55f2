"""The guard that an Executor starts before its supervisor: it is the pool's first, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from killable import Executor
from killable.supervisor.linux.early_guard import EarlyGuard

FORKED = """
import os, sys
from killable.supervisor.linux.early_guard import EarlyGuard

guard = EarlyGuard("calls", sys.path, ["killable.workers.runtime.executor_jobs"])
started, = guard._started
pid = os.fork()
if pid == 0:
    sockets = (started.guard_socket, started.zygote_socket)
    os._exit(0 if guard.take() is None and all(each.fileno() < 0 for each in sockets) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "its descriptors are left in a fork"
guard.close()
assert started.process.returncode == 0, started.process.returncode
"""


def test_a_pool_takes_over_the_guard_that_was_started_before_its_supervisor() -> None:
    with Executor(max_workers=1, spares=0) as executor:
        marker = executor.submit(os.getenv, "KILLABLE_INSTANCE").result()
    assert marker is not None and marker.endswith("/calls/0")


def test_arguments_that_are_found_invalid_late_leave_no_process() -> None:
    """`conftest` looks for what is left."""
    with pytest.raises(TypeError, match="no argument or limit 'run_ms'"):
        Executor(max_workers=1, run_ms=5)
    with pytest.raises(TypeError, match="pickle"):
        Executor(max_workers=1, initializer=print, initargs=(sys._getframe(),))


def test_a_guard_that_nobody_takes_over_ends_itself_and_its_zygote() -> None:
    guard = EarlyGuard("calls", ["x" * 200_000], ["no_such_module"])  # a path that is too long for one message
    (started,) = guard._started
    guard.close()
    assert started.process.returncode == 0
    assert guard.take() is None
    guard.close()


def test_a_fork_of_the_program_keeps_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
