"""The benchmarks' command lines; every peer of the Executor is measured in a program of its own, and compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = {
    "killable": "killable", "ProcessPoolExecutor": "concurrent", "loky": "loky", "Pebble": "pebble",
    "deadpool": "deadpool",
}  # fmt: skip
"""The module to import, by peer."""
KILLS = 2


NAMES = sorted(path.stem for path in BENCHMARKS.glob("bench_*.py"))

EACH = """
import contextlib, io, json, runpy, sys

said = {}
for path in sys.argv[1:]:
    for option in ("--help", "--list"):
        sys.argv, text = [path, option], io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            runpy.run_path(path, run_name="__main__")
        said[f"{path} {option}"] = text.getvalue()
print(json.dumps(said))
"""
"""Runs each benchmark with each option. They import the same packages, which takes longer than all else."""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What each benchmark says about itself."""
    paths = [f"benchmarks/{name}.py" for name in NAMES]
    command = [sys.executable, "-c", EACH, *paths]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=BENCHMARKS.parent, env=environment)
    printed: dict[str, str] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("benchmark", NAMES)
def test_its_help_has_examples_of_options_and_parts_that_there_are(benchmark: str, said: dict[str, str]) -> None:
    described, _, examples = said[f"benchmarks/{benchmark}.py --help"].partition("Examples:")
    parts = said[f"benchmarks/{benchmark}.py --list"].splitlines()
    assert parts
    lines = [shlex.split(line) for line in examples.strip().splitlines()]
    assert lines and all(line[:2] == ["python", f"benchmarks/{benchmark}.py"] for line in lines)
    for line in lines:
        assert {word for word in line if word.startswith("--")} <= set(re.findall(r"--[a-z]+", described)), line
        for option, text in pairwise(line):
            assert option != "--only" or any(text in part for part in parts), line


def test_its_parts_are_listed() -> None:
    """By the program itself."""
    command = [sys.executable, str(BENCHMARKS / "bench_executor.py"), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"cancel python_loop", "cancel native_loop", "timeout", "recovery"} <= set(listed)


COMPARE = """
import io, json
from pathlib import Path
import bench_executor
from executor import speed_measures, stopping_measures, watched_pool
from executor.measures import PEERS
from measurement import Samples, peer_name
from rich.console import Console

results = Samples()
for measure, killable, peers in (
    (stopping_measures.OVERSHOOT, 2.0, {"Pebble": 3105.0}),
    (speed_measures.FIRST_LINE, 0.2, {"Pebble": 0.4, "loky": 0.1}),
    (speed_measures.NOOPS, 4000.0, {"Pebble": 12000.0}),
):
    for peer, value in {"killable": killable, **peers}.items():
        results.add(peer_name(measure, peer), value, value, value)
results.outcomes[peer_name(stopping_measures.OVERSHOOT, "ProcessPoolExecutor")] = watched_pool.CANNOT
rows = bench_executor.comparison_rows(results)
text = io.StringIO()
Console(file=text, width=250).print(bench_executor.comparison_table(rows))
try:
    bench_executor.draw(rows, Path("chart.png"))
    is_drawn = Path("chart.png").read_bytes()[:4] == b"\\x89PNG"
except ImportError:
    is_drawn = None
print(json.dumps({
    "rows": [row.as_json() | {"verdict": row.figure.verdict} for row in rows],
    "notes": list(bench_executor.comparison_notes(rows)), "links": bench_executor.links(), "table": text.getvalue(),
    "is_drawn": is_drawn, "peers": list(PEERS),
}))
"""


def test_the_comparison_names_the_better_peer_and_the_documentation_of_each(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    printed = json.loads(done.stdout)
    better = {row["what"]: (row["better peer"], row["verdict"]) for row in printed["rows"]}
    assert better == {
        "run_s 0.5, native call: overshoot until dead": (None, "ok"),
        "submit → first line, p50": ("loky", "ok"),
        "submit → first line, p99": ("loky", "ok"),
        "no-op calls, results fetched": ("Pebble", "MISS"),
    }
    assert any("no-op calls, results fetched: Pebble" in line for line in printed["notes"])
    assert set(printed["links"]) == set(printed["peers"])
    assert all(link.startswith("https://") for name, link in printed["links"].items() if name != "killable")
    assert "no way" in printed["table"] and "3,105" in printed["table"] and printed["is_drawn"] is not False


@pytest.mark.row("PEERS-M")
@pytest.mark.parametrize("peer", PEERS)
def test_a_cancel_is_measured_of_each(peer: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    plan = json.dumps({"executor_kills": KILLS})
    trial = [sys.executable, "-m", "executor.trial", "cancel python_loop", peer, plan, str(path)]
    command = [sys.executable, str(BENCHMARKS / "executor" / "subreaper.py"), *trial]
    subprocess.run(command, check=True, cwd=BENCHMARKS, env={**os.environ, "TMPDIR": str(tmp_path)})
    found: dict[str, Any] = json.loads(path.read_text())
    counts = {name.rpartition(" · ")[2]: len(values) for name, values in found["values"].items()}
    outcomes = {name.rpartition(" · ")[2]: text for name, text in found["outcomes"].items()}
    if find_spec(PEERS[peer]) is None:
        assert (counts, outcomes) == ({}, {}) and f"{peer}: No module named" in found["remarks"][0]
    elif peer == "ProcessPoolExecutor":
        assert (counts, outcomes) == ({}, {peer: "no way"})
    else:
        limit = {"raw kill": KILLS} if peer == "killable" else {}
        assert (counts, outcomes, found["remarks"]) == ({peer: KILLS, **limit}, {}, [])
