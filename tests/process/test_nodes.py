"""A node that is frozen cannot end its jobs: its guards do, when its lease is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from job_runs import HOSTILE_POOL
from support import processes
from support.processes import read_process
from support.waiting import Pending, until

PROGRAM = str(Path(processes.__file__).parent / "node_program.py")


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (seen := read_process(pid)) is not None and seen.state != "Z"]


def test_the_guards_of_a_frozen_node_end_everything_when_its_lease_is_over() -> None:
    pool = json.dumps({"name": "hostile", **HOSTILE_POOL, "workers": 1})
    tests = str(Path(PROGRAM).parent.parent)
    node = subprocess.Popen(
        [sys.executable, PROGRAM, pool, "keeps_family"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests},
    )  # fmt: skip
    assert node.stdin is not None and node.stdout is not None
    try:
        pids = json.loads(node.stdout.readline())["pids"]
        assert len(alive(pids)) == len(pids) > 3
        node.send_signal(signal.SIGSTOP)
        until(lambda: Pending(left) if (left := alive(pids)) else True, "its guard has ended the job")
        assert (seen := read_process(node.pid)) is not None and seen.state == "T", "it did not do so itself"
        node.send_signal(signal.SIGCONT)
        told = json.loads(node.stdout.readline())
        assert told["error"]["code"] == "node_lost" and told["certificate"]["unproven"], told
        node.stdin.close()
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()
        node.stdout.close()
