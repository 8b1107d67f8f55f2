"""A number that was given to a stranger: no signal of ours can hit it, whatever would send one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_runs import HOSTILE_POOL
from support import processes

PROGRAM = Path(processes.__file__).parent / "pid_reuse_program.py"
NAMESPACE = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]


@pytest.mark.row("D8")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_stranger_with_the_number_of_a_dead_worker_is_never_hit(start_method: str) -> None:
    permitted = subprocess.run([*NAMESPACE, "test", "-w", "/proc/sys/kernel/ns_last_pid"], capture_output=True)
    if permitted.returncode:
        pytest.skip("needs a pid namespace of its own with ns_last_pid (CONFIG_CHECKPOINT_RESTORE)")
    folder = str(HOSTILE_POOL["folder"])
    environment = {**os.environ, "PYTHONPATH": folder}
    command = [*NAMESPACE, sys.executable, str(PROGRAM), "support.hostile_jobs", folder, start_method]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    # The control: a signal to the bare number, at the same place, ends the stranger.
    assert found["lived"].pop("bare_number") is False
    assert len(found["lived"]) == 7 and all(found["lived"].values()), found
    assert found["pinned"]
