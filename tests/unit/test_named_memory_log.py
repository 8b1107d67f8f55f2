"""The log of named memory, whatever a job has written into it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killable.workers.protocol.named_memory_log import LOG_BYTES_MAX, OBJECTS_MAX, SEMAPHORE, NamedMemory
from killable.workers.runtime import leftover_memory

VERBS = (b"SINCE", b"OPEN", b"MADE", b"SEEN", b"GONE", b"HELD", b"REGISTER", b"UNREGISTER", b'{"cmd":', b"[" * 2000)


def names(log: bytes) -> list[str]:
    return [each.file_name for each in NamedMemory(io.BytesIO(log)).objects]


@pytest.mark.parametrize(
    ("log", "left"),
    [
        (b"OPEN:/a\nMADE:7:/a\n", ["a"]),
        (b"OPEN:/a\nMADE:7:/a\nGONE:/a\n", []),
        (b"OPEN:/a\nGONE:/a\n", []),
        (b"MADE:7:/a\nUNREGISTER:/a:shared_memory\n", []),
        (b"SEEN:/theirs\nREGISTER:/theirs:shared_memory\n", []),
        (b"REGISTER:/of_a_child:shared_memory\nSEEN:/of_a_child\n", ["of_a_child"]),
        (b"REGISTER:/mp-x:semaphore\n", ["sem.mp-x"]),
        (b'{"cmd":"REGISTER","rtype":"semaphore","base64_name":"L21wLXg="}\n', ["sem.mp-x"]),
        (b"HELD:shared_memory:7:/a:b\n", ["a:b"]),
        (b"PROBE:0:noop\n", []),
        (b"MADE:7:/ends in mid", ["ends in mid"]),
    ],
)
def test_what_is_left(log: bytes, left: list[str]) -> None:
    assert names(log) == left


@settings(deadline=None)  # also where the properties do not say so
@given(st.lists(st.tuples(st.sampled_from(VERBS), st.binary(max_size=30))))
def test_nothing_that_is_written_there_is_an_error(lines: list[tuple[bytes, bytes]]) -> None:
    for found in NamedMemory(io.BytesIO(b"".join(verb + b":" + rest + b"\n" for verb, rest in lines))).objects:
        assert isinstance(found.file_name, str)


def test_a_long_log_and_long_lines_are_read_in_part() -> None:
    read = 0

    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            assert size is not None and 0 < size <= 4096
            read += size
            return b"x" * size

    assert NamedMemory(Endless()).objects == []
    assert read <= LOG_BYTES_MAX + 4096
    many = b"".join(b"OPEN:%d\n" % number for number in range(OBJECTS_MAX + 1000))
    assert len(names(many)) == OBJECTS_MAX


def test_only_files_of_its_owner_in_the_folder_of_shared_memory_are_removed(tmp_path: Path) -> None:
    log, outside = tmp_path / "log", tmp_path / "outside"
    outside.touch()
    link = Path("/dev/shm", f"killable-test-link-{os.getpid()}")
    link.symlink_to(outside)
    try:
        lines = [f"MADE:{os.stat(outside).st_ino}:/../..{outside}", f"MADE:{os.lstat(link).st_ino}:/{link.name}"]
        lines += [
            "MADE:0:/",
            "MADE:0:",
            "OPEN:/\0",
            "OPEN:/" + "x" * 300,
            "OPEN:/" + "ä" * 200,
            f"REGISTER:{outside}:{SEMAPHORE}",
            "REGISTER:/.:shared_memory",
        ]
        log.write_text("".join(f"{line}\n" for line in lines))
        assert leftover_memory.remove_named(str(log)) == (0, [])
        assert outside.exists() and link.is_symlink()
    finally:
        link.unlink()


def test_what_is_no_log_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/proc/self/status")
    for name in ("fifo", "link", "none", "."):
        assert leftover_memory.remove_named(str(tmp_path / name)) == (0, []), name
