"""The memory that a worker and its supervisor share: what a hostile job may write there, and what it cannot do."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from killable.workers.protocol import token_ring
from killable.workers.protocol.token_ring import RING_BYTES, TOKENS_MAX, TokenRingReader, TokenRingWriter

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the ring is for machines that order writes")

TABLE_AT, DATA_AT = 4096, 4096 + 4 * TOKENS_MAX


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = token_ring.create()
    yield made
    os.close(made)


def test_nobody_truncates_it(descriptor: int) -> None:
    """The supervisor would die of SIGBUS."""
    for size in (0, RING_BYTES - 1, 2 * RING_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)


@pytest.mark.parametrize(
    ("published", "ends"),
    [
        (2**64 - 1, []),
        (TOKENS_MAX + 1, []),
        (1, [DATA_AT - 1]),
        (1, [0]),
        (1, [RING_BYTES + 1]),
        (1, [2**32 - 1]),
        (2, [DATA_AT + 10, DATA_AT - 1]),
        (4, [RING_BYTES, DATA_AT + 1, RING_BYTES, DATA_AT + 1]),
    ],
    ids=["no number", "more than fit", "before", "at 0", "behind", "far behind", "then before", "overlapping"],
)
def test_what_cannot_be_is_noticed_and_nothing_is_read(descriptor: int, published: int, ends: list[int]) -> None:
    reader = TokenRingReader(descriptor)
    with mmap.mmap(descriptor, RING_BYTES) as memory:
        memory[TABLE_AT : TABLE_AT + 4 * len(ends)] = struct.pack(f"={len(ends)}I", *ends)
        memory[:8] = struct.pack("=Q", published)
    with pytest.raises(ValueError, match="its ring of tokens is damaged"):
        reader.take(TOKENS_MAX)


def test_the_worker_believes_a_full_ring_until_there_is_room(descriptor: int) -> None:
    writer, reader = TokenRingWriter(descriptor), TokenRingReader(descriptor)
    put = 0
    while writer.put(b"token"):
        put += 1
    assert put == TOKENS_MAX
    assert reader.take(3) == [b"token"] * 3
    assert [writer.put(b"more") for _ in range(4)] == [True] * 3 + [False]


def test_it_is_not_for_machines_that_may_reorder_writes(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = os.uname_result(("Linux", "host", "6", "1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: arm)
    with pytest.raises(OSError, match="reorder"):
        TokenRingReader(descriptor)
