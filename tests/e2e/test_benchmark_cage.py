"""What the benchmarks run of others leaves nothing: the cage ends it, orphans in sessions of their own included."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import processes

CAGE = Path(__file__).parents[2] / "benchmarks" / "executor" / "cage.py"
LEAVES_AN_ORPHAN = """
import os, signal, sys
heard, said = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        os.write(said, b"x")
        signal.pause()
    os._exit(0)
os.read(heard, 1)
"""


@pytest.mark.parametrize("ending", ["sys.exit(7)", "signal.pause()"])
def test_nothing_is_left_of_a_command(ending: str) -> None:
    command = [sys.executable, str(CAGE), sys.executable, "-c", LEAVES_AN_ORPHAN + ending]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as cage:
        assert cage.stdout is not None
        orphan = int(cage.stdout.readline())
        if "pause" in ending:
            assert processes.look(orphan) is not None
            cage.send_signal(signal.SIGTERM)
        assert cage.wait() == (143 if "pause" in ending else 7)
        assert processes.look(orphan) is None
