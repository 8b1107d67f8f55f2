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


COMPARE = """
import io, json
from pathlib import Path
from rich.console import Console
from executor import comparison, kills, peer_picture, speeds
from executor.measures import PEERS
from samples import RAW, Samples, beside

results = Samples()
for measure, ours, others in (
    (kills.OVERSHOOT, 2.0, {"Pebble": 3105.0}),
    (speeds.FIRST_LINE, 0.2, {"Pebble": 0.4, "loky": 0.1}),
    (speeds.NOOPS, 4000.0, {"Pebble": 12000.0}),
):
    for peer, value in {"killable": ours, **others}.items():
        results.add(beside(measure, peer), value, value, value)
results.words[beside(kills.OVERSHOOT, "ProcessPoolExecutor")] = "cannot"
rows = comparison.rows(results)
text = io.StringIO()
Console(file=text, width=250).print(comparison.table(rows))
try:
    peer_picture.draw(rows, Path("picture.png"))
    is_drawn = Path("picture.png").read_bytes()[:4] == b"\\x89PNG"
except ImportError:
    is_drawn = None
print(json.dumps({
    "rows": [row.as_json() | {"verdict": row.figure.verdict} for row in rows],
    "words": list(comparison.in_words(rows)), "links": comparison.links(), "table": text.getvalue(),
    "picture": is_drawn, "peers": list(PEERS),
}))
"""


def test_the_comparison_says_where_a_peer_wins_and_how_each_is_used(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    told = json.loads(done.stdout)
    wins = {row["what"]: (row["wins"], row["verdict"]) for row in told["rows"]}
    assert wins == {
        "run_s 0.5, native call: overshoot until dead": (None, "ok"),
        "submit → first line, idle warm worker, p50": ("loky", "MISS"),
        "submit → first line, idle warm worker, p99": ("loky", "ok"),
        "no-op jobs, results fetched": ("Pebble", "MISS"),
    }
    assert any("no-op jobs, results fetched: Pebble" in line for line in told["words"])
    assert set(told["links"]) == set(told["peers"])
    assert all(link.startswith("https://") for name, link in told["links"].items() if name != "killable")
    assert "cannot" in told["table"] and "3,105" in told["table"] and told["picture"] is not False


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
