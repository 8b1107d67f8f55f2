"""The log of a job's named memory, in which the job may write whatever it likes."""

from __future__ import annotations

from pathlib import Path

from killable.workers.protocol.named_memory import NamedMemory
from killable.workers.runtime.memory_removal import remove_named


def test_lines_that_are_nested_too_deeply_are_passed_over() -> None:
    """A parser that gives up on them would end the sweep of what dead servers left, at each start of a server."""
    for line in ('{"cmd":' + "[" * 100_000, "{" * 10, '{"base64_name": 1}', '{"cmd": "REGISTER"}', "[" * 100_000):
        assert NamedMemory(f"{line}\nOPEN:after\n".encode()).objects[-1].name == "after"


def test_names_that_no_file_can_have_remove_nothing(tmp_path: Path) -> None:
    log = tmp_path / "names"
    log.write_bytes(b"OPEN:a\0b\nOPEN:../x\nOPEN:\nREGISTER:/a\0b:shared_memory\n\0\xff\n")
    assert remove_named(str(log)) == (0, [])
