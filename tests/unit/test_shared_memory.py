"""Sealed memory: what is in it stays, whoever has the descriptor; and where a large input goes."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import mmap
import os
from typing import Any

import pytest

from killable.supervisor.jobs.inputs import seal_large_input
from killable.supervisor.models import Submission
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.message_bounds import INLINE_BYTES_MAX
from killable.workers.protocol.pickling import pickled
from killable.workers.protocol.shared_memory import SealedInput


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def test_it_holds_the_bytes_and_nobody_changes_them() -> None:
    sealed = SealedInput.of(b"0123456789")
    assert len(sealed) == 10
    with sealed.mapped() as content:
        assert content[:] == b"0123456789"
    with pytest.raises(PermissionError):
        os.pwrite(sealed.descriptor, b"x", 0)
    for size in (5, 20):
        with pytest.raises(PermissionError):
            os.ftruncate(sealed.descriptor, size)
    with pytest.raises(PermissionError):
        mmap.mmap(sealed.descriptor, 10)
    with pytest.raises(PermissionError):  # nor may a seal be added, such as one against the supervisor's own reading
        import fcntl

        fcntl.fcntl(sealed.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    sealed.close()


def test_it_is_not_inherited_by_programs() -> None:
    sealed = SealedInput.of(b"x")
    assert not os.get_inheritable(sealed.descriptor)
    sealed.close()


def test_it_is_closed_once_and_by_the_last_reference_at_the_latest() -> None:
    sealed = SealedInput.of(b"x")
    first = sealed.descriptor
    sealed.close()
    sealed.close()
    assert not is_open(first)
    abandoned = SealedInput.of(b"y")
    second = abandoned.descriptor
    del abandoned
    gc.collect()
    assert not is_open(second)


@pytest.mark.parametrize(("codec", "dump"), [("json", json.dumps), ("pickle", lambda value: pickled(value).to_bytes())])
def test_the_codecs_read_it_where_it_lies(codec: str, dump: Any) -> None:
    given = {"text": "\udc80 ä \u2028", "numbers": [1, 2.5, None], "raw": b"raw" if codec == "pickle" else "raw"}
    payload = dump(given)
    sealed = SealedInput.of(payload if isinstance(payload, bytes) else payload.encode())
    with sealed.mapped() as content:
        members = CODECS[codec].decode_input(content)
    assert members == given  # after the mapping has gone
    sealed.close()


async def test_a_large_input_is_sealed_and_a_small_one_stays_in_the_order() -> None:
    small, large = b"x" * INLINE_BYTES_MAX, b"x" * (INLINE_BYTES_MAX + 1)
    submission = Submission("work", small)
    assert await seal_large_input(submission) is submission
    sealed = (await seal_large_input(Submission("work", large))).input
    assert isinstance(sealed, SealedInput) and len(sealed) == len(large)
    again = Submission("work", sealed)
    assert await seal_large_input(again) is again
    sealed.close()


async def test_without_memory_or_a_descriptor_for_it_the_input_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)
    submission = Submission("work", b"x" * (INLINE_BYTES_MAX + 1))
    assert await seal_large_input(submission) is submission


def test_a_copy_that_fails_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    create, write = os.memfd_create, os.write

    def remember(name: str, flags: int) -> int:
        made.append(create(name, flags))
        return made[-1]

    def fail(descriptor: int, data: Any) -> int:
        if descriptor in made:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data)

    monkeypatch.setattr(os, "memfd_create", remember)
    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="no space left"):
        SealedInput.of(b"x")
    assert not is_open(made[0])


async def test_whoever_stops_waiting_for_the_copy_leaves_nothing() -> None:
    """`nothing_left` looks at the descriptors when the thread has ended."""
    waiting = asyncio.create_task(seal_large_input(Submission("work", b"x" * (8 * INLINE_BYTES_MAX))))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
