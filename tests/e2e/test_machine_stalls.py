"""A machine that stands still: a virtual one that is paused, a laptop whose processes wait for their disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

import pytest
from support.killable_command import Serve
from support.waiting import until

from killable import Client

JOBS = """
import time
from pathlib import Path
from killable import Context, job

@job
def tidies(ctx: Context, folder: str) -> None:
    try:
        ctx.emit("in")
        ctx.sleep(1000)
    finally:
        Path(folder, "tidies").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)
        Path(folder, "is tidy").touch()
"""
GRACE_S = 5.0


@pytest.mark.row("D3")
def test_a_job_whose_machine_stood_still_for_its_grace_has_time_to_clean_up(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "tidying.py").write_text(JOBS)
    server = serve("tidying.py", "--port", "0")
    with Client(server.url) as client:
        job = client.submit("tidies", {"folder": str(tmp_path)}, limits={"grace_s": GRACE_S})
        assert next(iter(job)) == "in"
        stopped = (server.process.pid, job.record()["pid"])
        job.cancel(wait_s=0)
        asked = monotonic()
        until((tmp_path / "tidies").exists, "it cleans up")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: monotonic() > asked + GRACE_S + 3, "its grace is over")
        (tmp_path / "go").touch()
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        until(lambda: job.record()["state"] == "cancelled", "it is over")
    assert (tmp_path / "is tidy").exists()
