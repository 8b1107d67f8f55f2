"""The benchmark's subreaper ends every process of its command, orphans in sessions of their own included."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import processes

SUBREAPER = Path(__file__).parents[2] / "benchmarks" / "executor" / "subreaper.py"
LEAVES_AN_ORPHAN = """
import os, signal, sys
readable, writable = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        os.write(writable, b"x")
        signal.pause()
    os._exit(0)
os.read(readable, 1)
"""


@pytest.mark.parametrize("ending", ["sys.exit(7)", "signal.pause()"])
def test_no_process_of_a_command_is_left(ending: str) -> None:
    command = [sys.executable, str(SUBREAPER), sys.executable, "-c", LEAVES_AN_ORPHAN + ending]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as subreaper:
        assert subreaper.stdout is not None
        orphan = int(subreaper.stdout.readline())
        if "pause" in ending:
            assert processes.read_process(orphan) is not None
            subreaper.send_signal(signal.SIGTERM)
        assert subreaper.wait() == (143 if "pause" in ending else 7)
        assert processes.read_process(orphan) is None
