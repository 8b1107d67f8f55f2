"""The benchmark of the Executor also runs its peers: the same measure, each in a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = {"killable": "killable", "ProcessPoolExecutor": "concurrent", "loky": "loky", "Pebble": "pebble"}
"""By name: what is imported for it."""
KILLS = 2


def test_its_parts_are_listed() -> None:
    command = [sys.executable, str(BENCHMARKS / "bench_executor.py"), "--list"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=BENCHMARKS.parent)
    assert {"cancel python_loop", "cancel native_loop", "timeout", "recovery"} <= set(told.stdout.splitlines())


@pytest.mark.row("PEERS-M")
@pytest.mark.parametrize("peer", PEERS)
def test_a_cancel_is_measured_of_each(peer: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    plan = json.dumps({"executor_kills": KILLS})
    trial = [sys.executable, "-m", "executor.trial", "cancel python_loop", peer, plan, str(path)]
    caged = [sys.executable, str(BENCHMARKS / "executor" / "cage.py"), *trial]
    subprocess.run(caged, check=True, cwd=BENCHMARKS, env={**os.environ, "TMPDIR": str(tmp_path)})
    found: dict[str, Any] = json.loads(path.read_text())
    counts = {name.rpartition(" · ")[2]: len(values) for name, values in found["values"].items()}
    words = {name.rpartition(" · ")[2]: word for name, word in found["words"].items()}
    if find_spec(PEERS[peer]) is None:
        assert (counts, words) == ({}, {}) and f"{peer}: No module named" in found["remarks"][0]
    elif peer == "ProcessPoolExecutor":
        assert (counts, words) == ({}, {peer: "cannot"})
    else:
        limit = {"raw kill": KILLS} if peer == "killable" else {}
        assert (counts, words, found["remarks"]) == ({peer: KILLS, **limit}, {}, [])
