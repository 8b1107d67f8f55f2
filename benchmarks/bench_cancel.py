"""Measure what killable is for: cancel → dead → certificate → terminal SSE event, and all figures that were asked for.

    python benchmarks/bench_cancel.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr; samples and picture to benchmarks/results/. Ends
by itself and leaves nothing alive. Needs the package, and the extras `models` (for the real native call) and `bench`
(for the picture).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import cooperative
import crowds
import encoding
import endings
import figures
import flows
import machine
import picture
import psutil
import typer
from cooperative import Politeness
from deathwatch import DeathWatch
from machine import STRANGERS_SHARE_MAX, Patience, Strangers
from plan import FULL, QUICK, Plan
from rich.console import Console
from samples import Samples

RESULTS = Path(__file__).parent / "results"
TABLE_COLUMNS = 180
"""Where stdout is no terminal."""
PARTS: dict[str, Callable[[Plan, Samples, DeathWatch], Awaitable[None]]] = {
    **endings.PARTS,
    **flows.PARTS,
    **crowds.PARTS,
}

progress = Console(stderr=True, highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few trials, one pass: a minute instead of six.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, help="Passes over everything. Default: 3, quick 1.")
    ] = None,
    patience_s: Annotated[
        float | None,
        typer.Option(
            "--patience",
            min=0,
            metavar="SECONDS",
            help="In all, for waiting out others' work, and to measure again what it disturbed. Default: 600, quick 0.",
        ),
    ] = None,
) -> None:
    """Measure everything in one run, so that ratios hold."""
    plan = (QUICK if quick else FULL).changed(repeat, patience_s)
    started_at = time.monotonic()
    results = Samples()
    polite = asyncio.run(_measure(plan, results))
    _fail_on_leftovers()
    lines = figures.figures(results)
    RESULTS.mkdir(exist_ok=True)
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - started_at, 1),
        "machine": machine.describe(),
        "plan": asdict(plan),
        "figures": [line.as_json() for line in lines],
        "cooperative": [asdict(each) for each in polite],
        "strangers": results.strangers,
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
    patience = Patience(plan.patience_s)
    with DeathWatch() as watch:
        for number in range(1, plan.passes + 1):
            for name in PARTS:
                progress.print(f"pass {number} of {plan.passes}: {name}")
                share, measured = await _measure_part(name, plan, watch, patience)
                results.strangers[name].append(round(share, 3))
                results.take_over(measured)
    progress.print(f"the cooperative baseline: {plan.never_s:g} s of asking politely")
    workloads = [name for name in cooperative.WORK if name != "encode" or encoding.IS_INSTALLED]
    return await asyncio.gather(
        *(
            asyncio.to_thread(cooperative.time_to_stop, workload, mechanism, plan.never_s)
            for workload in workloads
            for mechanism in cooperative.MECHANISMS
        )
    )


async def _measure_part(name: str, plan: Plan, watch: DeathWatch, patience: Patience) -> tuple[float, Samples]:
    """Measure one part, again while strangers use the processors and patience lasts.

    Returns their share and the samples of the attempt in which it was lowest.
    """
    attempts: list[tuple[float, Samples]] = []
    while True:
        await patience.wait_for_quiet()
        measured, strangers, began_at = Samples(), Strangers(), time.monotonic()
        try:
            await PARTS[name](plan, measured, watch)
        except Exception as error:
            # The other parts are worth having; what is missing is marked "not measured".
            traceback.print_exc()
            failed = Samples(remarks=[f"{name}: {type(error).__name__}: {error}"])
            return min(attempts, key=lambda attempt: attempt[0], default=(strangers.share(), failed))
        attempts.append((strangers.share(), measured))
        if strangers.share() <= STRANGERS_SHARE_MAX or not patience:
            return min(attempts, key=lambda attempt: attempt[0])
        progress.print(f"  others used {strangers.share():.0%} of the processors meanwhile: once more")
        patience.spend(time.monotonic() - began_at)


def _fail_on_leftovers() -> None:
    left = psutil.Process().children(recursive=True)
    if left:
        raise RuntimeError(f"still alive: {left}")


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
    noisy = {name: max(shares) for name, shares in results.strangers.items() if max(shares) > STRANGERS_SHARE_MAX}
    for name, share in noisy.items():
        console.print(f"others used up to {share:.0%} of the processors during: {name}")
    missed = sum(line.verdict == "MISS" for line in lines)
    console.print(f"{len(lines)} figures, {missed} missed")


if __name__ == "__main__":
    typer.run(main)
