"""The ring of tokens under every order of writing and reading, and under every damage."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killable.workers.protocol.token_ring import (
    RING_BYTES,
    TOKEN_BYTES_MAX,
    TOKENS_MAX,
    TokenRingReader,
    TokenRingWriter,
    create,
)

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the ring is for machines that order writes")

sizes = st.one_of(st.integers(1, 40), st.integers(1, TOKEN_BYTES_MAX + 1))
puts = st.tuples(st.just("put"), sizes, st.integers(1, 5000))
takes = st.tuples(st.just("take"), st.integers(0, 2 * TOKENS_MAX), st.just(1))


@contextmanager
def ring() -> Iterator[tuple[TokenRingWriter, TokenRingReader, mmap.mmap]]:
    """Return the two sides, and a mapping by which a hostile job writes anything."""
    descriptor = create()
    try:
        yield TokenRingWriter(descriptor), TokenRingReader(descriptor), mmap.mmap(descriptor, RING_BYTES)
    finally:
        os.close(descriptor)


@given(st.lists(st.one_of(puts, takes), max_size=30))
def test_what_was_put_is_taken_whole_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    """Whatever there was no room for was refused, and never damages what was there."""
    sent: list[bytes] = []
    received: list[bytes] = []
    with ring() as (writer, reader, _):
        for what, number, times in steps:
            if what == "take":
                received += reader.take(number)
                continue
            for _ in range(times):
                token = b"%d " % len(sent) + b"x" * number
                token = token[:number]
                if not writer.put(token):
                    assert len(token) > TOKEN_BYTES_MAX or reader.published > reader.consumed
                    break
                sent.append(token)
        while tokens := reader.take(TOKENS_MAX):
            received += tokens
    assert received == sent


@given(
    st.lists(st.tuples(st.integers(0, RING_BYTES - 1), st.binary(min_size=1, max_size=64)), min_size=1, max_size=20),
    st.integers(0, 3000),
)
def test_a_job_that_writes_anything_there_only_damages_its_tokens(
    scribbles: list[tuple[int, bytes]], ahead: int
) -> None:
    """It is noticed, or what is taken is no more than the ring holds."""
    with ring() as (writer, reader, memory):
        for number in range(ahead):
            writer.put(b"%d" % number)
        reader.take(ahead // 2)
        for place, content in scribbles:
            memory[place : place + len(content)] = content[: RING_BYTES - place]
            try:
                tokens = reader.take(TOKENS_MAX)
            except ValueError:
                return
            assert sum(map(len, tokens)) <= RING_BYTES
