"""Shared memory of calls: what one leaves is the program's until the Executor ends; what a killed one leaves goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from killable import Executor, JobCancelled
from killable.supervisor.linux import worker_cleanup

SHARED = Path("/dev/shm")


def leave(value: bytes) -> str:
    segment = SharedMemory(create=True, size=1000)
    segment.buf[: len(value)] = value
    segment.close()
    return segment.name


def leave_and_raise(name: str) -> None:
    SharedMemory(name, create=True, size=1000).close()
    raise ValueError(name)


def read(name: str) -> bytes:
    segment = SharedMemory(name)
    try:
        return bytes(segment.buf[:4])
    finally:
        segment.close()


def leave_and_wait(value: bytes) -> Iterator[Any]:
    yield leave(value)
    time.sleep(3600)


def test_what_a_call_leaves_is_there_for_its_program_until_the_end() -> None:
    """For the next call too, and a call that is killed in the same worker takes only its own with it."""
    with Executor(max_workers=1) as executor:
        name = executor.submit(leave, b"left").result()
        assert executor.submit(read, name).result() == read(name) == b"left"
        stream = executor.stream(leave_and_wait, b"gone")
        of_killed = next(stream)
        assert (SHARED / of_killed).exists()
        stream.future.cancel(grace_s=0)
        with pytest.raises(JobCancelled):
            next(stream)
        assert not (SHARED / of_killed).exists()
        assert executor.submit(read, name).result() == b"left"
    assert not (SHARED / name).exists()


def test_what_a_call_that_fails_leaves_is_gone() -> None:
    with Executor(max_workers=1) as executor:
        name = f"killable-test-{time.monotonic_ns()}"
        failed = executor.submit(leave_and_raise, name)
        assert isinstance(failed.exception(), ValueError) and not (SHARED / name).exists()


def test_memory_of_the_program_stays_when_a_call_that_uses_it_is_killed() -> None:
    segment = SharedMemory(create=True, size=1000)
    try:
        segment.buf[:4] = b"ours"
        with Executor(max_workers=1) as executor:
            stream = executor.stream(read_and_wait, segment.name)
            assert next(stream) == b"ours"
            stream.future.cancel(grace_s=0)
        assert read(segment.name) == b"ours"
    finally:
        segment.close()
        segment.unlink()


def read_and_wait(name: str) -> Iterator[Any]:
    segment = SharedMemory(name)
    yield bytes(segment.buf[:4])
    time.sleep(3600)


def test_an_executor_that_ends_while_it_looks_for_what_was_left_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with many System V segments a thread looks. What is left open is seen behind each test."""
    monkeypatch.setattr(worker_cleanup, "LOOK_BYTES", -1)
    with Executor(max_workers=1) as executor:
        assert executor.submit(abs, -3).result() == 3
