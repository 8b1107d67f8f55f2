"""What a worker's log of names has removed."""

from __future__ import annotations

import time
from pathlib import Path

from support.memory_jobs import make_system_v_segment

from killable.workers.runtime.leftover_memory import remove_named, remove_segments
from killable.workers.runtime.worker_loop import _memory_left


def test_names_that_no_file_can_have_remove_nothing(tmp_path: Path) -> None:
    """An error would end the sweep of what dead servers left, at each start of a server."""
    log = tmp_path / "names"
    log.write_bytes(b"OPEN:a\0b\nOPEN:../x\nOPEN:\nREGISTER:/a\0b:shared_memory\n\0\xff\n")
    assert remove_named(str(log)) == (0, [])


def test_a_segment_of_an_earlier_process_with_the_same_pid_is_none_of_a_workers() -> None:
    """It cost a worker after each job."""
    before = time.time()
    made = make_system_v_segment()
    try:
        assert _memory_left(since=before) == "shared memory is left"
        assert _memory_left(since=time.time() + 2) == ""
    finally:
        assert remove_segments([made]) == 1
