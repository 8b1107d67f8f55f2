"""Measure killable's Executor beside ProcessPoolExecutor, loky, Pebble and deadpool: ends, starts, speed, memory.

Each peer is measured in a program of its own, one after the other, below a process that ends all that is left of it,
also after Ctrl-C. Celery, RQ, Dask and Ray are measured with --systems, where they are installed. `make peers` installs
the libraries, `make peers SYSTEMS=yes` all of them, into an environment of their own, and publishes.

Runs in: the benchmark. The table goes to stdout, progress to stderr, samples and chart to benchmarks/results/. Needs
the package, and the extra `bench`. --quick takes less than 10 minutes on two cores, with --systems some 20.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

import click
import runner
from executor import memory_measures, page, recovery_measures, speed_measures, stopping_measures
from executor.measures import MEASURES, PEERS, Measure
from executor.peers import Deadpool, Killable, Loky, Pebble, Peer, StdlibPool, StdlibSpawnPool
from executor.task_systems import SYSTEMS, Celery, Dask, Ray, Rq
from measurement import RAW, Figure, Samples, peer_name
from other_load import BUSY
from packaging.requirements import Requirement
from rich.table import Table
from trial_plan import FULL, QUICK, Plan

from killable.api.cli.bench import machine

HERE = Path(__file__).parent
TRIAL_S = 120.0
"""Longer than any trial; one that takes longer hangs."""
ERROR_LINES = 12

OPTIONS = (
    click.Option(["--systems"], is_flag=True, help="Measure Celery, RQ, Dask and Ray, too."),
    click.Option(
        ["--publish"], is_flag=True,
        help="Write benchmarks/peers.json, and with it the page about the peers and README.",
    ),
)  # fmt: skip


def main(
    quick: bool,
    systems: bool,
    publish: bool,
    as_json: bool,
    repeat: int | None,
    patience_s: float | None,
    only: tuple[str, ...],
    names: bool,
) -> None:
    """Measure all peers in one run, so that ratios are comparable."""
    chosen: dict[str, Measure] = runner.choose(MEASURES, only, names)
    plan = (QUICK if quick else FULL).with_options(repeat, patience_s)
    report = runner.Report(runner.result_name("bench_executor", quick, only), plan)
    parts: dict[str, Callable[[Plan, Samples], Awaitable[None]]] = {
        name: partial(_measure, name, _peers(measure, systems)) for name, measure in chosen.items()
    }
    results = report.results
    asyncio.run(runner.measure(plan, results, parts))
    runner.require_no_children()
    results.remarks = list(dict.fromkeys(results.remarks))
    rows = comparison_rows(results)
    report.figures = [row.figure for row in rows]
    report.table, report.notes = comparison_table(rows), comparison_notes(rows)
    report.more = {"outcomes": results.outcomes, "peers": [row.as_json() for row in rows], "links": links()}
    report.draw = partial(draw, rows)
    report.publish(as_json)
    if publish and only:
        runner.progress.print("nothing published: that takes a whole run, without --only")
    elif publish:
        for path in page.publish(published(rows, results, quick, time.monotonic() - report.began)):
            runner.progress.print(f"published: {path}")


def _peers(measure: Measure, systems: bool) -> list[type[Peer]]:
    return [peer for peer in measure.peers if systems or peer not in SYSTEMS]


async def _measure(name: str, peers: Iterable[type[Peer]], plan: Plan, results: Samples) -> None:
    """Run one part: all its peers, one after the other. Those that are no libraries take long to start: once."""
    chosen = list(peers)
    for turn in range(plan.executor_programs if MEASURES[name].is_repeated else 1):
        for peer in chosen if not turn else [each for each in chosen if each not in SYSTEMS]:
            began = time.monotonic()
            results.merge(await _run_trial(name, peer.name, plan))
            runner.progress.print(f"  {peer.name}: {time.monotonic() - began:.1f} s")


async def _run_trial(name: str, peer: str, plan: Plan) -> Samples:
    """Run one trial. A failure becomes a remark."""
    with tempfile.TemporaryDirectory(prefix="killable-bench-", ignore_cleanup_errors=True) as directory:
        path, errors_path = Path(directory, "samples.json"), Path(directory, "stderr")
        with errors_path.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE / "executor" / "subreaper.py"), sys.executable, "-m", "executor.trial",
                name, peer, json.dumps(asdict(plan)), str(path),
                stdout=errors, stderr=errors, stdin=asyncio.subprocess.DEVNULL, cwd=HERE,
                env={**os.environ, "TMPDIR": directory},
            )  # fmt: skip
            try:
                async with asyncio.timeout(TRIAL_S):
                    await process.wait()
                cause = f"exit code {process.returncode}"
            except TimeoutError:
                cause = f"not finished after {TRIAL_S:g} s"
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    await process.wait()
        if path.exists():
            return Samples(**json.loads(path.read_text()))
        lines = errors_path.read_text(errors="replace").splitlines()
        runner.progress.print("\n".join(lines[-ERROR_LINES:]), markup=False)
        return Samples(remarks=[f"{name}, {peer}: {cause}: {lines[-1] if lines else 'no output'}"])


# ── targets ──

Statistic = Callable[[Samples, str], float | None]
STOPPING, CALLS, MEMORY = "Stopping", "Calls and streams", "Starts, losses and memory"
"""Sections of the comparison."""


def median(results: Samples, name: str) -> float | None:
    return results.median(name)


def p99(results: Samples, name: str) -> float | None:
    return results.percentile(name, 99)


def greatest(results: Samples, name: str) -> float | None:
    return results.percentile(name, 100)


def best_map(results: Samples, name: str) -> float | None:
    """Return the median at the best chunksize."""
    _, peer = name.split(" · ")
    medians = [results.median(peer_name(speed_measures.map_name(size), peer)) for size in speed_measures.CHUNKSIZES]
    return min((each for each in medians if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the comparison: a bound in the measure's unit, or a bound on the ratio to a peer of the same run."""

    section: str
    measure: str
    bound: float
    unit: str = "ms"
    what: str = ""
    statistic: Statistic = median
    at_least: bool = False
    digits: int = 2
    ratio_to: str | None = None
    """The peer whose value is the denominator of the ratio."""
    ratio_statistic: Statistic | None = None
    """The statistic of that peer, where it is not the same."""

    def row(self, results: Samples) -> Row:
        what = self.what or self.measure.removesuffix(f", {self.unit}")
        value = self.statistic(results, peer_name(self.measure, Killable.name))
        names = {peer: peer_name(self.measure, peer) for peer in COLUMNS}
        peers = {peer: found for peer, name in names.items() if (found := self.statistic(results, name)) is not None}
        outcomes = {peer: text for peer, name in names.items() if (text := results.outcomes.get(name, ""))}
        figure = self._figure(what, value, results)
        return Row(self.section, figure, value, peers, outcomes, self.unit, self.at_least, self.digits)

    def _figure(self, what: str, value: float | None, results: Samples) -> Figure:
        note = results.outcomes.get(peer_name(self.measure, Killable.name), "")
        if self.ratio_to is None:
            return Figure(what, self.bound, value, self.unit, self.at_least, self.digits, note=note)
        other = (self.ratio_statistic or self.statistic)(results, peer_name(self.measure, self.ratio_to))
        ratio = value / other if value is not None and other else None
        return Figure(what, self.bound, ratio, f"× {short_name(self.ratio_to)}", self.at_least, 2, note=note)


def _cancel_targets() -> Iterator[Target]:
    for cancel in stopping_measures.CANCELS.values():
        what = cancel.measure.removesuffix(", ms")
        yield Target(STOPPING, cancel.measure, 1.5, what=f"{what}, p50", ratio_to=RAW)
        if not cancel.is_large:
            yield Target(
                STOPPING, cancel.measure, 3.0, what=f"{what}, p99", statistic=p99, ratio_to=RAW, ratio_statistic=median
            )


TARGETS = (
    *_cancel_targets(),
    Target(STOPPING, stopping_measures.OVERSHOOT, 5.0),
    Target(STOPPING, stopping_measures.NEW_JOB, 1.0),
    Target(STOPPING, stopping_measures.NEIGHBOUR, 1.0),
    Target(STOPPING, stopping_measures.CHILDREN, 0.0, unit="processes", digits=0, statistic=greatest),
    Target(STOPPING, stopping_measures.OWNER_DEATH, 50.0),
    Target(STOPPING, stopping_measures.ERROR_TYPES, 6.0, unit="types", digits=0, at_least=True),
    Target(CALLS, speed_measures.FIRST_LINE, 0.8, what="submit → first line, p50", digits=3, ratio_to=Pebble.name),
    Target(
        CALLS, speed_measures.FIRST_LINE, 1.0, what="submit → first line, p99", digits=3, statistic=p99,
        ratio_to=Pebble.name,
    ),
    Target(CALLS, speed_measures.IDLE_FIRST_LINE, 1.0, digits=3, ratio_to=Pebble.name),
    Target(CALLS, speed_measures.BUSY_FIRST_LINE, 0.2, digits=3),
    Target(CALLS, stopping_measures.AFTER_KILL, 1.0),
    Target(CALLS, speed_measures.NOOPS, 1.5, unit="calls/s", digits=0, at_least=True, ratio_to=Pebble.name),
    Target(CALLS, speed_measures.CPU, 1.0, unit="µs", digits=1, ratio_to=Pebble.name),
    Target(CALLS, speed_measures.MAP_SINGLE, 1.11, unit="items/s", digits=0, at_least=True, ratio_to=StdlibPool.name),
    Target(
        CALLS, speed_measures.MAP, 0.6, what="map of 100,000 small items, best chunksize", statistic=best_map,
        ratio_to=StdlibPool.name,
    ),
    Target(CALLS, speed_measures.BYTES, 0.7, digits=0, ratio_to=StdlibPool.name),
    Target(CALLS, memory_measures.GLOBALS, 1.2, ratio_to=StdlibPool.name),
    Target(CALLS, speed_measures.STREAM, 2.3, unit="tokens/s", digits=0, at_least=True, ratio_to=StdlibPool.name),
    Target(CALLS, speed_measures.FIRST_TOKEN, 0.5),
    Target(MEMORY, speed_measures.COLD_START, 80.0, digits=1),
    Target(MEMORY, recovery_measures.SPARE, 2.0),
    Target(MEMORY, recovery_measures.NO_SPARE, 40.0),
    Target(MEMORY, memory_measures.POOL_MEMORY, 100.0, unit="MB", digits=0),
    Target(MEMORY, memory_measures.USS, 12.0, unit="MB", digits=1),
    Target(MEMORY, memory_measures.GLOBALS_MEMORY, 60.0, unit="MB", digits=0),
)  # fmt: skip


# ── comparison with the peers ──

COLUMNS = (RAW, *(name for name in PEERS if name != Killable.name))
SHORT_NAMES = {StdlibPool.name: "stdlib", StdlibSpawnPool.name: "stdlib, spawn"}


def short_name(peer: str) -> str:
    """Return the name for table and chart."""
    return SHORT_NAMES.get(peer, peer)


def format_value(value: float, digits: int) -> str:
    return f"{value:,.{digits if abs(value) < 100 else 0}f}"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of killable with the values of the peers: for each a number in the same unit, or a text."""

    section: str
    figure: Figure
    value: float | None
    """Killable's; the figure has the ratio where the target is one."""
    peers: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    unit: str = "ms"
    at_least: bool = False
    digits: int = 2

    @property
    def value_text(self) -> str:
        return "–" if self.value is None else f"{format_value(self.value, self.digits)} {self.unit}"

    @property
    def best_peer(self) -> str | None:
        """The peer with the best value. The raw kill is a limit and no peer."""
        rivals = [name for name in self.peers if name != RAW and name not in self.outcomes]
        if not rivals:
            return None
        return (max if self.at_least else min)(rivals, key=self.peers.__getitem__)

    @property
    def better_peer(self) -> str | None:
        """The best peer, if it is better than killable."""
        best = self.best_peer
        if best is None or self.value is None:
            return None
        other = self.peers[best]
        return best if (other > self.value if self.at_least else other < self.value) else None

    def times_worse(self, peer: str) -> float | None:
        """Return how many times worse than killable a peer is; below 1 it is better. None without a ratio."""
        other = self.peers.get(peer)
        if not other or not self.value or self.value < 0 or other < 0 or peer in self.outcomes:
            return None
        return self.value / other if self.at_least else other / self.value

    def cell(self, peer: str) -> str:
        if peer in self.outcomes:
            return self.outcomes[peer]
        return format_value(self.peers[peer], self.digits) if peer in self.peers else "–"

    def values(self) -> dict[str, float | str]:
        """Return what was measured of each, killable first; a text replaces the number behind it."""
        ours = {} if self.value is None else {Killable.name: self.value}
        return {**ours, **self.peers, **self.outcomes}

    def as_json(self) -> dict[str, object]:
        return {
            "section": self.section, "what": self.figure.what, "unit": self.unit, "at_least": self.at_least,
            "digits": self.digits, "killable": self.value, "peers": self.peers | self.outcomes,
            "best peer": self.best_peer, "better peer": self.better_peer,
        }  # fmt: skip


def comparison_rows(results: Samples) -> list[Row]:
    """Return the lines for which something was measured."""
    rows = [target.row(results) for target in TARGETS]
    return [row for row in rows if row.value is not None or row.peers or row.outcomes]


def comparison_table(rows: list[Row]) -> Table:
    """Return figures and peers in one table. Killable's best values are bold; a peer that is better is red."""
    columns = [column for column in COLUMNS if any(row.cell(column) != "–" for row in rows)]
    table = Table(title="targets, measured values, and the peers in the same run and unit", title_justify="left")
    table.add_column("figure")
    for name in ("target", "measured", "verdict", Killable.name, *map(short_name, columns)):
        table.add_column(name, justify="right")
    table.add_column("better")
    for row in rows:
        better = row.better_peer
        value = row.figure.note or row.value_text
        table.add_row(
            row.figure.what, row.figure.target, row.figure.measured_text, runner.verdict_cell(row.figure),
            f"[bold]{value}[/]" if better is None else value,
            *(f"[bold red]{row.cell(column)}[/]" if column == better else row.cell(column) for column in columns),
            "" if better is None else short_name(better),
        )  # fmt: skip
    return table


def links() -> dict[str, str]:
    return {name: peer.link for name, peer in PEERS.items()}


def comparison_notes(rows: list[Row]) -> Iterator[str]:
    """Yield the lines below the table."""
    absent = [name for name in PEERS if name != Killable.name and all(row.cell(name) == "–" for row in rows)]
    for name, link in links().items():
        if name not in absent:
            yield f"{name}{f' ({SHORT_NAMES[name]})' if name in SHORT_NAMES else ''}: used as in {link}"
    if absent:
        yield f"not measured here: {', '.join(absent)}"
    yield (
        f"p50 and p99 of {Killable.name}'s cancel are both relative to the p50 of the raw kill; peers preload with an"
        " initializer; for the recovery, a peer that cannot stop a job has its worker killed from outside"
    )
    better = [f"{row.figure.what}: {short_name(row.better_peer)}" for row in rows if row.better_peer]
    yield "a peer is better in: " + ("; ".join(better) or "nothing")


# ── what is published ──


def published(rows: list[Row], results: Samples, quick: bool, took_s: float) -> page.Document:
    """Return all that the page and README say of this run. Significant digits only, so that a difference is read."""
    loads = [max(shares) for shares in results.other_load.values()]
    other_load = round(sum(loads) / len(loads), 2)
    measured = {name for row in rows for name in (*row.peers, *row.outcomes)} | {Killable.name}
    figures = [
        page.Comparison(
            section=row.section,
            what=row.figure.what,
            unit=row.unit,
            at_least=row.at_least,
            values={name: _rounded(value) for name, value in row.values().items()},
        )
        for row in rows
    ]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "took_s": round(took_s),
        "quick": quick,
        "machine": machine.describe(),
        "other_load": other_load,
        "was_busy": other_load >= BUSY,
        "peers": {name: _described(peer) for name, peer in PEERS.items() if name in measured},
        "figures": figures,
    }  # fmt: skip


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(f"{value:.3g}")


def _described(peer: type[Peer]) -> page.Described:
    name = peer.distribution
    return {
        "version": "of Python" if name is None else metadata.version(name),
        "python": "" if name is None else str(metadata.metadata(name)["Requires-Python"]),
        "packages": _packages(name),
        "link": peer.link,
        "is_system": peer in SYSTEMS,
    }


def _packages(distribution: str | None) -> int:
    """Return how many other distributions an installation of this one brings, here."""
    found: set[str] = set()
    waiting = [] if distribution is None else [distribution]
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            needed = Requirement(line)
            if needed.name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                found.add(needed.name)
                waiting.append(needed.name)
    return len(found)


# ── chart ──

KILLABLE_COLOUR = "#1b6ca8"
NEVER_COLOUR = "#c0392b"
MARKERS: dict[str, tuple[str, str]] = {
    RAW: ("s", "#555555"),
    StdlibPool.name: ("o", "#d98200"),
    StdlibSpawnPool.name: ("d", "#8a5a00"),
    Loky.name: ("^", "#7b3fa0"),
    Pebble.name: ("v", "#2e8b57"),
    Deadpool.name: ("h", "#c25b8a"),
    Celery.name: ("P", "#a3c644"),
    Rq.name: ("X", "#b03a2e"),
    Dask.name: ("<", "#e39ac0"),
    Ray.name: (">", "#00a0b0"),
}
NEVER_AT = 30_000.0
"""Position of the first peer with a text instead of a number: never, cannot, something left alive."""
NEVER_WIDTH = 10
NEVER_STEP = 1.4
"""Factor from one of these peers to the next."""


def draw(rows: list[Row], path: Path) -> None:
    """Write the chart of times worse than killable as a PNG. Raise ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(13, 1.8 + 0.42 * len(rows)), layout="constrained")
    labelled: set[str] = set()
    for height, row in enumerate(rows):
        axes.axhline(height, color="#eeeeee", linewidth=0.8, zorder=0)
        axes.annotate(
            "not measured" if row.value is None else row.value_text, (1, height), xytext=(4, 5),
            textcoords="offset points", ha="left", fontsize=7, color=KILLABLE_COLOUR,
        )  # fmt: skip
        without_number = [peer for peer in COLUMNS if peer in row.outcomes]
        for peer in COLUMNS:
            times = row.times_worse(peer)
            if peer in without_number:
                times = NEVER_AT * NEVER_STEP ** without_number.index(peer)
            if times is None:
                continue
            marker, colour = MARKERS[peer]
            label = None if peer in labelled else short_name(peer)
            labelled.add(peer)
            axes.plot([times], [height], marker, color=colour, markersize=7, alpha=0.85, label=label)
    axes.axvline(1, color=KILLABLE_COLOUR, linewidth=1.6, label="killable")
    axes.axvspan(NEVER_AT / 2, NEVER_AT * NEVER_WIDTH, color=NEVER_COLOUR, alpha=0.07, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(0.015, NEVER_AT * NEVER_WIDTH)
    ticks = {
        0.02: "1/50", 0.1: "1/10", 0.5: "½", 1: "killable", 2: "2 ×", 5: "5 ×", 10: "10 ×", 100: "100 ×",
        1000: "1,000 ×", NEVER_AT * 2: "never, cannot,\nor processes left alive",
    }  # fmt: skip
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.figure.what for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_title("times worse than killable: to the left of the line a peer is better", loc="left", fontsize=12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=10, fontsize=8.5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    runner.run(
        main, __doc__, examples=["--quick --only no-ops --only cancel", "--quick --systems --publish"], options=OPTIONS
    )
