"""Run a benchmark: command-line options, passes over its parts, repeats under foreign load, JSON report and table.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psutil
from measurement import Figure, Samples
from other_load import OTHER_LOAD_MAX, OtherLoad, TimeBudget
from rich.console import Console
from rich.table import Table
from trial_plan import FULL, QUICK, Plan

from killable.api.cli.bench import machine

RESULTS = Path(__file__).parent / "results"
TABLE_COLUMNS = 180
"""Width where stdout is no terminal."""
WIDE_TABLE_COLUMNS = 250
"""The same for a table with one column per peer."""

Part = Callable[[Plan, Samples], Awaitable[None]]

OPTIONS = (
    click.Option(["--quick"], is_flag=True, help="Few trials, one pass."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print the results as JSON instead of a table."),
    click.Option(["--repeat"], type=click.IntRange(min=1), help="Passes over all parts. Default: 3, quick 1."),
    click.Option(
        ["--patience", "patience_s"], type=click.FloatRange(min=0), metavar="SECONDS",
        help="Total time to wait for idle processors and to repeat parts that other processes disturbed. "
        "Default: 600, quick 0.",
    ),
    click.Option(
        ["--only"], multiple=True, metavar="TEXT", help="Parts whose names contain this text. May be given again."
    ),
    click.Option(["--list", "names"], is_flag=True, help="Print the names of the parts, and end."),
)  # fmt: skip
"""The options of every benchmark."""

progress = Console(stderr=True, highlight=False)


def run(
    main: Callable[..., None], about: str, *, examples: Iterable[str] = (), options: Iterable[click.Option] = ()
) -> None:
    """Run a benchmark's command line, with these options besides those of all.

    Its help is `about`, the docstring of its module, and what can be typed.
    """
    path = f"python benchmarks/{Path(sys.argv[0]).name}"
    text, _, where = about.partition("\n\nRuns in: ")
    shown = [
        *(f"{path} {example}".rstrip() for example in ("--quick", "--list", *examples)),
        f"{path} --json --repeat 1 --patience 0 >results.json",
    ]
    # \b keeps the lines of a paragraph as they are (click, "Preventing Rewrapping").
    epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in shown)
    text = f"{text}\n\nRuns in: {where}"
    click.Command(None, callback=main, params=[*OPTIONS, *options], help=text, epilog=epilog).main()


def command(
    name: str,
    parts: Mapping[str, Part],
    figures: Callable[[Samples], list[Figure]],
    notes: Callable[[Samples], list[str]],
) -> Callable[..., None]:
    """Return the function behind a benchmark's command line. `notes` returns lines to print below the table."""

    def main(
        quick: bool,
        as_json: bool,
        repeat: int | None,
        patience_s: float | None,
        only: tuple[str, ...],
        names: bool,
    ) -> None:
        chosen = choose(parts, only, names)
        plan = (QUICK if quick else FULL).with_options(repeat, patience_s)
        report = Report(result_name(name, quick, only), plan)
        asyncio.run(measure(plan, report.results, chosen))
        require_no_children()
        report.figures, report.notes = shown(figures(report.results), only), notes(report.results)
        report.publish(as_json)

    return main


def choose(parts: Mapping[str, Any], only: Sequence[str], names: bool) -> dict[str, Any]:
    """Return the parts whose names contain one of these texts. Exit where none does, and where names are asked for."""
    if names:
        print("\n".join(parts))
        raise click.exceptions.Exit
    chosen = {name: part for name, part in parts.items() if not only or any(text in name for text in only)}
    if not chosen:
        progress.print(f"no part has such a name; there are: {', '.join(parts)}")
        raise click.exceptions.Exit(2)
    return chosen


def shown(figures: list[Figure], only: Sequence[str]) -> list[Figure]:
    """Return all of a whole run's figures, and of some parts what they measured."""
    return [figure for figure in figures if not only or figure.measured is not None]


def result_name(name: str, quick: bool, only: Sequence[str]) -> str:
    """Return the name of a run's files in `results/`: one of some parts replaces none of all."""
    return name + ("_quick" if quick else "") + ("_some" if only else "")


# ── passes ──


async def measure(plan: Plan, results: Samples, parts: Mapping[str, Part]) -> None:
    """Run every part in every pass. An error in a part becomes a remark."""
    gc.collect()
    gc.freeze()  # a full collection over all imported modules would delay what is measured in this process
    budget = TimeBudget(plan.patience_s)
    for number in range(1, plan.passes + 1):
        for name, part in parts.items():
            progress.print(f"pass {number} of {plan.passes}: {name}")
            share, measured = await _measure_part(name, part, plan, budget)
            results.other_load[name].append(round(share, 3))
            results.merge(measured)


def require_no_children() -> None:
    """Raise RuntimeError if a process that the benchmark started is still alive."""
    left = psutil.Process().children(recursive=True)
    if left:
        raise RuntimeError(f"still alive: {left}")


async def _measure_part(name: str, part: Part, plan: Plan, budget: TimeBudget) -> tuple[float, Samples]:
    """Measure one part; repeat it while other processes use the processors and time is left.

    Return their share and the samples of the attempt in which it was lowest.
    """
    attempts: list[tuple[float, Samples]] = []
    while True:
        await budget.wait_until_idle()
        measured, load, began_at = Samples(), OtherLoad(), time.monotonic()
        try:
            await part(plan, measured)
        except Exception as error:
            # The other parts still count; figures of this one are reported as "not measured".
            traceback.print_exc()
            failed = Samples(remarks=[f"{name}: {type(error).__name__}: {error}"])
            return min(attempts, key=lambda attempt: attempt[0], default=(load.share(), failed))
        attempts.append((load.share(), measured))
        if load.share() <= OTHER_LOAD_MAX or not budget:
            return min(attempts, key=lambda attempt: attempt[0])
        progress.print(f"  other processes used {load.share():.0%} of the processors: repeating")
        budget.spend(time.monotonic() - began_at)


# ── report ──


@dataclass
class Report:
    """What a run reports: a JSON file in `results/`, and a table or JSON on stdout."""

    name: str
    plan: Plan
    results: Samples = field(default_factory=Samples)
    figures: list[Figure] = field(default_factory=list)
    notes: Iterable[str] = ()
    """Lines below the table."""
    table: Table | None = None
    """Printed in place of the figures' own table."""
    draw: Callable[[Path], None] | None = None
    """Writes the chart as a PNG; raises ImportError without matplotlib."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further members of the JSON document."""
    began: float = field(default_factory=time.monotonic)

    def publish(self, as_json: bool) -> None:
        """Draw the chart, write the JSON file, and print the table or the JSON. Call once."""
        RESULTS.mkdir(exist_ok=True)
        chart = self._draw_chart()
        document = self._document()
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        if as_json:
            print(json.dumps(document, ensure_ascii=False))
        else:
            self._print()
        progress.print(f"samples: {path}")
        if chart is not None:
            progress.print(f"chart: {chart}")

    def _draw_chart(self) -> Path | None:
        if self.draw is None:
            return None
        path = RESULTS / f"{self.name}.png"
        try:
            self.draw(path)
        except ImportError as error:
            self.results.remarks.append(f"no chart: {error}; pip install '.[bench]'")
            return None
        return path

    def _document(self) -> dict[str, Any]:
        return {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(time.monotonic() - self.began, 1),
            "machine": machine.describe(),
            "plan": asdict(self.plan),
            "figures": [figure.as_json() for figure in self.figures],
            "other_load": self.results.other_load,
            "remarks": self.results.remarks,
            **self.more,
            "summary": self.results.summary(),
            "samples": self.results.values,
        }

    def _print(self) -> None:
        columns = TABLE_COLUMNS if self.table is None else WIDE_TABLE_COLUMNS
        console = Console(highlight=False, width=None if sys.stdout.isatty() else columns)
        console.print(figure_table(self.figures) if self.table is None else self.table)
        for line in self.notes:
            console.print(line, markup=False)
        for remark in self.results.remarks:
            console.print(f"remark: {remark}", markup=False)
        load = {name: max(shares) for name, shares in self.results.other_load.items() if max(shares) > OTHER_LOAD_MAX}
        if load:
            listed = ", ".join(f"{name} {share:.0%}" for name, share in load.items())
            console.print(f"disturbed by other processes, which used this share of the processors: {listed}")
        missed = sum(figure.verdict == "MISS" for figure in self.figures)
        here = machine.words(machine.describe())
        console.print(f"{len(self.figures)} figures, {missed} missed; {here}")


def figure_table(figures: Iterable[Figure]) -> Table:
    """Return the table of targets and measured values."""
    table = Table(title="targets and measured values; medians unless stated otherwise", title_justify="left")
    table.add_column("figure")
    table.add_column("target", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("verdict")
    table.add_column("least … greatest (samples), comparison", style="dim")
    for figure in figures:
        table.add_row(figure.what, figure.target, figure.measured_text, verdict_cell(figure), figure.note)
    return table


def verdict_cell(figure: Figure) -> str:
    """Return the verdict in rich markup."""
    style = {"ok": "green", "MISS": "bold red", "not measured": "yellow"}[figure.verdict]
    return f"[{style}]{figure.verdict}[/]"
