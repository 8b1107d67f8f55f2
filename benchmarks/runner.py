"""Passes over the parts of a benchmark: measured again while strangers compute, then a JSON report and a table.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import machine
import psutil
import typer
from figure import Figure, table
from machine import STRANGERS_SHARE_MAX, Patience, Strangers
from plan import FULL, QUICK, Plan
from rich.console import Console
from rich.table import Table
from samples import Samples

RESULTS = Path(__file__).parent / "results"
TABLE_COLUMNS = 180
"""Where stdout is no terminal."""
WIDE_TABLE_COLUMNS = 250
"""There, for a table with a column for each of many."""

Part = Callable[[Plan, Samples], Awaitable[None]]

Quick = Annotated[bool, typer.Option("--quick", help="Few trials, one pass.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")]
Repeat = Annotated[int | None, typer.Option("--repeat", min=1, help="Passes over everything. Default: 3, quick 1.")]
PatienceS = Annotated[
    float | None,
    typer.Option(
        "--patience",
        min=0,
        metavar="SECONDS",
        help="In all, for waiting out others' work, and to measure again what it disturbed. Default: 600, quick 0.",
    ),
]

progress = Console(stderr=True, highlight=False)


def command(
    name: str,
    parts: Mapping[str, Part],
    figures: Callable[[Samples], list[Figure]],
    remarks: Callable[[Samples], list[str]],
) -> Callable[..., None]:
    """Return what a benchmark's command line runs."""

    def run(quick: Quick = False, as_json: AsJson = False, repeat: Repeat = None, patience_s: PatienceS = None) -> None:
        plan = (QUICK if quick else FULL).changed(repeat, patience_s)
        began, results = time.monotonic(), Samples()
        asyncio.run(measure(plan, results, parts))
        fail_on_leftovers()
        lines = figures(results)
        text = report(f"{name}_quick" if quick else name, plan, results, lines, time.monotonic() - began)
        if as_json:
            print(text)
        else:
            print_table(lines, results, remarks(results))

    return run


async def measure(plan: Plan, results: Samples, parts: Mapping[str, Part]) -> None:
    """Run every part in every pass."""
    patience = Patience(plan.patience_s)
    for number in range(1, plan.passes + 1):
        for name, part in parts.items():
            progress.print(f"pass {number} of {plan.passes}: {name}")
            share, measured = await _measure_part(name, part, plan, patience)
            results.strangers[name].append(round(share, 3))
            results.take_over(measured)


async def _measure_part(name: str, part: Part, plan: Plan, patience: Patience) -> tuple[float, Samples]:
    """Measure one part, again while strangers use the processors and patience lasts.

    Returns their share and the samples of the attempt in which it was lowest.
    """
    attempts: list[tuple[float, Samples]] = []
    while True:
        await patience.wait_for_quiet()
        measured, strangers, began_at = Samples(), Strangers(), time.monotonic()
        try:
            await part(plan, measured)
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


def fail_on_leftovers() -> None:
    left = psutil.Process().children(recursive=True)
    if left:
        raise RuntimeError(f"still alive: {left}")


def report(name: str, plan: Plan, results: Samples, lines: Iterable[Figure], took_s: float, **more: Any) -> str:
    """Write the JSON report and return it as text."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(took_s, 1),
        "machine": machine.describe(),
        "plan": asdict(plan),
        "figures": [line.as_json() for line in lines],
        "strangers": results.strangers,
        "remarks": results.remarks,
        **more,
        "summary": results.summary(),
        "samples": results.values,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    progress.print(f"samples: {path}")
    return json.dumps(document, ensure_ascii=False)


def print_table(lines: list[Figure], results: Samples, more: Iterable[str] = (), shown: Table | None = None) -> None:
    """Print the figures, or a table that has more than them."""
    columns = TABLE_COLUMNS if shown is None else WIDE_TABLE_COLUMNS
    console = Console(highlight=False, width=None if sys.stdout.isatty() else columns)
    console.print(table(lines) if shown is None else shown)
    for line in more:
        console.print(line, markup=False)
    for remark in results.remarks:
        console.print(f"remark: {remark}", markup=False)
    noisy = {name: max(shares) for name, shares in results.strangers.items() if max(shares) > STRANGERS_SHARE_MAX}
    for name, share in noisy.items():
        console.print(f"others used up to {share:.0%} of the processors during: {name}")
    missed = sum(line.verdict == "MISS" for line in lines)
    console.print(f"{len(lines)} figures, {missed} missed")
