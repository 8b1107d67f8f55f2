"""Measure what killable is for: cancel → dead → certificate → terminal SSE event, and all figures that were asked for.

    python benchmarks/bench_cancel.py [--quick] [--json] [--repeat N]

Runs in: the benchmark. The table goes to stdout, progress to stderr; samples and picture to benchmarks/results/. Ends
by itself and leaves nothing alive. Needs the package, and the extras `models` (for the real native call) and `bench`
(for the picture).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import cooperative
import crowds
import encoding
import endings
import figures
import flows
import picture
import psutil
import typer
from cooperative import Politeness
from deathwatch import DeathWatch
from plan import FULL, QUICK, Plan
from rich.console import Console
from samples import Samples

from killable.supervisor.settings import usable_cores

RESULTS = Path(__file__).parent / "results"
TABLE_COLUMNS = 180
"""Where stdout is no terminal."""
PARTS: dict[str, Callable[[Plan, Samples, DeathWatch], Awaitable[None]]] = {
    "one job at a time": endings.measure,
    "starts, streams, memory": flows.measure,
    "many jobs at once": crowds.measure,
}

progress = Console(stderr=True, highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few trials, one pass: a minute instead of six.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, help="Passes over everything. Default: 3, quick 1.")
    ] = None,
) -> None:
    """Measure everything in one run, so that ratios hold."""
    plan = QUICK if quick else FULL
    plan = plan.repeated(repeat) if repeat else plan
    started_at = time.monotonic()
    load_before = os.getloadavg()
    results = Samples()
    polite = asyncio.run(_measure(plan, results))
    _fail_on_leftovers()
    lines = figures.figures(results)
    RESULTS.mkdir(exist_ok=True)
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - started_at, 1),
        "machine": _machine(load_before),
        "plan": asdict(plan),
        "figures": [line.as_json() for line in lines],
        "cooperative": [asdict(each) for each in polite],
        "remarks": results.remarks,
        "summary": results.summary(),
        "samples": results.values,
    }
    name = "bench_cancel_quick" if quick else "bench_cancel"
    json_path = RESULTS / f"{name}.json"
    json_path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    picture_path = _draw(results, polite, lines, plan, RESULTS / f"{name}.png")
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print_table(lines, polite, results)
    progress.print(f"samples: {json_path}\npicture: {picture_path or 'none'}")


async def _measure(plan: Plan, results: Samples) -> list[Politeness]:
    with DeathWatch() as watch:
        for number in range(1, plan.passes + 1):
            for name, measure in PARTS.items():
                progress.print(f"pass {number} of {plan.passes}: {name}")
                try:
                    await measure(plan, results, watch)
                except Exception as error:
                    # The other parts are worth having; what is missing is marked "not measured".
                    traceback.print_exc()
                    results.remarks.append(f"{name}: {type(error).__name__}: {error}")
    progress.print(f"the cooperative baseline: {plan.never_s:g} s of asking politely")
    workloads = [name for name in cooperative.WORK if name != "encode" or encoding.IS_INSTALLED]
    return await asyncio.gather(
        *(
            asyncio.to_thread(cooperative.time_to_stop, workload, mechanism, plan.never_s)
            for workload in workloads
            for mechanism in cooperative.MECHANISMS
        )
    )


def _fail_on_leftovers() -> None:
    left = psutil.Process().children(recursive=True)
    if left:
        raise RuntimeError(f"still alive: {left}")


def _machine(load_before: tuple[float, float, float]) -> dict[str, Any]:
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nice": os.nice(0),
        "load_before": load_before,
        "load_after": os.getloadavg(),
    }


def _draw(
    results: Samples, polite: list[Politeness], lines: list[figures.Figure], plan: Plan, path: Path
) -> Path | None:
    try:
        picture.draw(results, polite, lines, plan.never_s, path)
    except ImportError as error:
        results.remarks.append(f"no picture: {error}; pip install '.[bench]'")
        return None
    return path


def _print_table(lines: list[figures.Figure], polite: list[Politeness], results: Samples) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    console.print(figures.table(lines))
    for each in polite:
        stopped = "never" if each.stopped_ms is None else f"{each.stopped_ms:.1f} ms"
        console.print(f"{each.mechanism}, cancelled: {each.workload} → {stopped} ({each.cpu_s:.1f} s of cpu since)")
    for remark in results.remarks:
        console.print(f"remark: {remark}", markup=False)
    missed = sum(line.verdict == "MISS" for line in lines)
    console.print(f"{len(lines)} figures, {missed} missed")


if __name__ == "__main__":
    typer.run(main)
