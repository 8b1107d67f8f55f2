"""Measure what killable is for: cancel → dead → certificate → terminal SSE event, and all figures that were asked for.

    python benchmarks/bench_cancel.py [--quick] [--json] [--repeat N] [--patience S]

Runs in: the benchmark. The table goes to stdout, progress to stderr; samples and picture to benchmarks/results/. Ends
by itself and leaves nothing alive. Needs the package, and the extras `models` (for the real native call) and `bench`
(for the picture).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cancel_figures
import cooperative
import crowds
import encoding
import endings
import flows
import picture
import runner
import typer
from cooperative import Politeness
from deathwatch import DeathWatch
from figure import Figure
from plan import FULL, QUICK, Plan
from samples import Samples

PARTS: dict[str, Callable[[Plan, Samples, DeathWatch], Awaitable[None]]] = {
    **endings.PARTS,
    **flows.PARTS,
    **crowds.PARTS,
}


def main(
    quick: runner.Quick = False,
    as_json: runner.AsJson = False,
    repeat: runner.Repeat = None,
    patience_s: runner.PatienceS = None,
) -> None:
    """Measure everything in one run, so that ratios hold."""
    plan = (QUICK if quick else FULL).changed(repeat, patience_s)
    started_at = time.monotonic()
    results = Samples()
    polite = asyncio.run(_measure(plan, results))
    runner.fail_on_leftovers()
    lines = cancel_figures.figures(results)
    name = "bench_cancel_quick" if quick else "bench_cancel"
    picture_path = _draw(results, polite, lines, plan, runner.RESULTS / f"{name}.png")
    took_s = time.monotonic() - started_at
    text = runner.report(name, plan, results, lines, took_s, cooperative=[asdict(each) for each in polite])
    if as_json:
        print(text)
    else:
        runner.print_table(lines, results, map(_in_words, polite))
    runner.progress.print(f"picture: {picture_path or 'none'}")


async def _measure(plan: Plan, results: Samples) -> list[Politeness]:
    with DeathWatch() as watch:
        parts = {name: partial(part, watch=watch) for name, part in PARTS.items()}
        await runner.measure(plan, results, parts)
    runner.progress.print(f"the cooperative baseline: {plan.never_s:g} s of asking politely")
    workloads = [name for name in cooperative.WORK if name != "encode" or encoding.IS_INSTALLED]
    return await asyncio.gather(
        *(
            asyncio.to_thread(cooperative.time_to_stop, workload, mechanism, plan.never_s)
            for workload in workloads
            for mechanism in cooperative.MECHANISMS
        )
    )


def _draw(results: Samples, polite: list[Politeness], lines: list[Figure], plan: Plan, path: Path) -> Path | None:
    path.parent.mkdir(exist_ok=True)
    try:
        picture.draw(results, polite, lines, plan.never_s, path)
    except ImportError as error:
        results.remarks.append(f"no picture: {error}; pip install '.[bench]'")
        return None
    return path


def _in_words(each: Politeness) -> str:
    stopped = "never" if each.stopped_ms is None else f"{each.stopped_ms:.1f} ms"
    return f"{each.mechanism}, cancelled: {each.workload} → {stopped} ({each.cpu_s:.1f} s of cpu since)"


if __name__ == "__main__":
    typer.run(main)
