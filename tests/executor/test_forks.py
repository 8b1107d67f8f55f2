"""A program that forks by itself while an Executor is at work: by multiprocessing, say."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from typing import Any

import executor_tasks
import pytest

from killable import Executor

PUT_OFF_S = 1.0
"""How long the fork may be put off: longer than any start of a process takes."""


def test_a_fork_while_its_first_process_starts_holds_up_nothing() -> None:
    starting, forked = threading.Event(), threading.Event()

    def look(frame: object, event: str, called: Any) -> None:
        if event == "c_return" and getattr(called, "__name__", "") == "fork_exec":
            starting.set()
            forked.wait(PUT_OFF_S)

    made: list[Executor] = []
    maker = threading.Thread(target=lambda: made.append(Executor(max_workers=1)))  # the guard starts in its constructor
    threading.setprofile(look)
    try:
        maker.start()
        assert starting.wait(60)
    finally:
        threading.setprofile(None)
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12: a program with threads may come to harm
        pid = os.fork()
    if pid == 0:
        os.close(writable)
        os.read(readable, 1)
        os._exit(0)
    forked.set()
    os.close(readable)
    maker.join()
    (executor,) = made
    try:
        assert executor.submit(executor_tasks.square, 3).result(timeout=60) == 9
    finally:
        os.close(writable)  # its child goes
        os.waitpid(pid, 0)
        executor.shutdown()


def test_a_fork_waits_until_nothing_of_the_library_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread takes tempfile's lock at its start: a child that inherited that taken would hang in its first call."""
    begun, inside, forked, make = threading.Event(), threading.Event(), threading.Event(), tempfile.mkdtemp

    def make_slowly(*args: Any, **kwargs: Any) -> str:
        inside.set()
        begun.set()
        forked.wait(PUT_OFF_S)
        inside.clear()
        return make(*args, **kwargs)

    monkeypatch.setattr(tempfile, "mkdtemp", make_slowly)
    with Executor(max_workers=1) as executor:
        assert begun.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(inside.is_set())
        forked.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert executor.submit(executor_tasks.square, 3).result() == 9
