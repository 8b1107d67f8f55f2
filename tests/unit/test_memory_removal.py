"""What a worker's log of names has removed."""

from __future__ import annotations

from pathlib import Path

from killable.workers.runtime.memory_removal import remove_named


def test_names_that_no_file_can_have_remove_nothing(tmp_path: Path) -> None:
    """An error would end the sweep of what dead servers left, at each start of a server."""
    log = tmp_path / "names"
    log.write_bytes(b"OPEN:a\0b\nOPEN:../x\nOPEN:\nREGISTER:/a\0b:shared_memory\n\0\xff\n")
    assert remove_named(str(log)) == (0, [])
