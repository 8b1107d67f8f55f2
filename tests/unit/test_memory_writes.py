"""Memory that is watched for writes: each one is noticed, and memory that cannot be watched is not trusted."""

from __future__ import annotations

import gc
import mmap
import os
import random
from collections.abc import Iterator

import pytest

from killable.supervisor.linux import memory_writes
from killable.supervisor.linux.memory_writes import PAGE_BYTES, WriteWatch, address_of

PAGES = 20


@pytest.fixture
def watch() -> Iterator[WriteWatch]:
    try:
        made = WriteWatch()
    except OSError as error:
        pytest.skip(f"this kernel watches no memory, or may not: {error}")
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, PAGES * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as made:
        made[:] = b"x" * len(made)
        yield made


def place(memory: mmap.mmap) -> tuple[int, int]:
    return address_of(memory), len(memory)


def test_a_write_to_any_page_is_noticed(watch: WriteWatch, memory: mmap.mmap) -> None:
    for page in range(PAGES):
        assert watch.watch(*place(memory))
        assert memory[page * PAGE_BYTES] == ord("x")
        assert watch.is_unwritten(*place(memory)) and (page % 2 or watch.is_unwritten(*place(memory)))
        memory[page * PAGE_BYTES + random.randrange(PAGE_BYTES)] = ord("y")
        assert not watch.is_unwritten(*place(memory))


def test_a_write_of_the_kernel_is_noticed(watch: WriteWatch, memory: mmap.mmap) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"new")
    assert watch.watch(*place(memory))
    os.readv(reader, [memoryview(memory)[5 * PAGE_BYTES : 5 * PAGE_BYTES + 3]])
    assert not watch.is_unwritten(*place(memory))
    os.close(reader)
    os.close(writer)
    gc.collect()


def test_pages_that_were_never_touched_are_watched(watch: WriteWatch) -> None:
    with mmap.mmap(-1, PAGES * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        assert watch.watch(*place(fresh)) and watch.is_unwritten(*place(fresh))
        assert fresh[3 * PAGE_BYTES] == 0 and watch.is_unwritten(*place(fresh))
        fresh[4 * PAGE_BYTES] = 1
        assert not watch.is_unwritten(*place(fresh))


@pytest.mark.parametrize("looks", [0, 1, 2])
@pytest.mark.parametrize("is_read", [False, True])
def test_memory_that_was_given_back_is_not_trusted(
    watch: WriteWatch, memory: mmap.mmap, looks: int, is_read: bool
) -> None:
    """As free(3) does: its pages read as zeros, and nothing was written."""
    assert watch.watch(*place(memory))
    assert all(watch.is_unwritten(*place(memory)) for _ in range(looks))
    memory.madvise(mmap.MADV_DONTNEED, 2 * PAGE_BYTES, PAGE_BYTES)
    if is_read:
        assert memory[2 * PAGE_BYTES] == 0
    assert not watch.is_unwritten(*place(memory))


def test_a_whole_page_table_that_was_given_back_is_not_trusted(watch: WriteWatch) -> None:
    table_bytes = 512 * PAGE_BYTES
    with mmap.mmap(-1, 4 * table_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as large:
        for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
            large.madvise(advice)
            large[:] = b"x" * len(large)
            assert watch.watch(*place(large))
            assert watch.is_unwritten(*place(large)) and watch.is_unwritten(*place(large))
            middle = -address_of(large) % table_bytes + table_bytes
            large.madvise(mmap.MADV_DONTNEED, middle, table_bytes)
            assert not watch.is_unwritten(*place(large))


def test_shared_memory_is_not_trusted(watch: WriteWatch) -> None:
    """Another process may write to it, through pages of its own."""
    with mmap.mmap(-1, PAGES * PAGE_BYTES) as shared:
        shared[:] = b"x" * len(shared)
        watch.watch(*place(shared))
        assert sum(shared[::PAGE_BYTES]) and not watch.is_unwritten(*place(shared))


def test_other_memory_at_the_same_place_is_not_trusted(watch: WriteWatch, memory: mmap.mmap) -> None:
    here = place(memory)
    assert watch.watch(*here) and watch.is_unwritten(*here)
    memory.close()
    assert not watch.is_unwritten(*here)
    with mmap.mmap(-1, PAGES * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):  # mostly at that place
        assert not watch.is_unwritten(*here)
    watch.forget(*here)


def test_what_is_no_longer_watched_is_not_trusted(watch: WriteWatch, memory: mmap.mmap) -> None:
    assert watch.watch(*place(memory))
    watch.forget(*place(memory))
    assert not watch.is_unwritten(*place(memory))


def test_less_than_a_page_is_not_watched(watch: WriteWatch, memory: mmap.mmap) -> None:
    assert not watch.watch(address_of(memory) + 1, PAGE_BYTES)


def test_contents_are_compared_to_their_end() -> None:
    first, second = bytearray(b"x" * 100), bytearray(b"x" * 101)
    assert memory_writes.are_equal(first, second, 100)
    second[99] = 0
    assert not memory_writes.are_equal(first, second, 100)


def test_without_the_kernels_help_there_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_writes, "_SYS_USERFAULTFD", 1 << 20)  # no such system call
    with pytest.raises(OSError):
        WriteWatch()
