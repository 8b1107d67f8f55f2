"""Large memory files in huge pages: the content is the same, private, and gone with its last reference."""

from __future__ import annotations

import array
import gc
import os
from pathlib import Path

import pytest

from killable.supervisor.executor.repeated_content import RepeatedContent
from killable.workers.protocol import huge_pages
from killable.workers.protocol.shared_memory import HUGE_BYTES_MIN, SharedPart

SIZE = HUGE_BYTES_MIN + huge_pages.PAGE_BYTES // 2 + 1


def huge_bytes_of_mappings() -> int:
    """Return how much of this process's shared memory is in huge pages."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("ShmemPmdMapped:")) << 10


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("killable-input")


def test_gathered_content_is_the_same_and_in_huge_pages() -> None:
    content = os.urandom(SIZE)
    part = SharedPart.of(content)
    part.gather()
    mapped = part.map()
    assert bytes(mapped) == content
    if not huge_bytes_of_mappings():
        pytest.skip("this kernel gathers no pages, or has no huge page left")
    assert huge_bytes_of_mappings() == SIZE // huge_pages.PAGE_BYTES * huge_pages.PAGE_BYTES


def test_pages_are_gathered_for_content_that_comes_again() -> None:
    repeated = RepeatedContent()
    table = array.array("B", bytes(SIZE))
    seen = []
    for content in (0, 1, 1, 2):
        table[5] = content
        seen.append(repeated.part_of(memoryview(table), lasts=True)._is_gathered)
    assert seen == [False, False, True, False]
    repeated.close()


@pytest.mark.parametrize("size", [100, SIZE])
def test_a_mapping_is_private_and_goes_with_its_last_reference(size: int) -> None:
    part = SharedPart.of(bytes(size))
    part.gather()
    mapped = part.map()
    mapped[size - 1] = 7
    assert (mapped[size - 1], part.map()[size - 1], mappings()) == (7, 0, 1)
    rest = memoryview(mapped)[size // 2 :]
    del mapped
    part.close()
    assert rest[-1] == 7
    del rest
    gc.collect()
    assert mappings() == 0


def test_what_cannot_be_mapped_is_an_error_that_leaves_nothing() -> None:
    before = Path("/proc/self/maps").read_text().count("\n")
    with pytest.raises(OSError):
        huge_pages.mapped(-1, SIZE)
    huge_pages.gather(-1, SIZE)
    assert abs(Path("/proc/self/maps").read_text().count("\n") - before) <= 1
