"""Measure cancel → dead → certificate → terminal SSE event beside a bare SIGKILL; starts and streams of a supervisor.

Runs in: the benchmark. The table goes to stdout, progress to stderr; samples and chart to benchmarks/results/. Leaves
no process alive. Needs the package, and the extras `models` (for the real native call) and `bench` (for the chart).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cancel_scenarios as scenarios
import cooperative_cancel
import runner
import tokenizer_jobs
from cooperative_cancel import CancelOutcome
from measurement import CERTIFICATE, DEAD, GRACE_0, GRACE_DEFAULT, RAW, RAW_LATE, SSE, Figure, Samples, phase_name
from trial_plan import FULL, QUICK, Plan

from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS

COOPERATIVE = "cooperative cancels"
"""The part that is no scenario of a supervisor: asyncio tasks and threads, whose work cannot be stopped."""


def main(
    quick: bool,
    as_json: bool,
    repeat: int | None,
    patience_s: float | None,
    only: tuple[str, ...],
    names: bool,
) -> None:
    """Measure everything in one run, so that ratios are comparable."""
    chosen = runner.choose({**scenarios.PARTS, COOPERATIVE: None}, only, names)
    plan = (QUICK if quick else FULL).with_options(repeat, patience_s)
    report = runner.Report(runner.result_name("bench_cancel", quick, only), plan)
    cooperative = asyncio.run(_measure(plan, report.results, chosen))
    runner.require_no_children()
    report.figures = runner.shown(figures(report.results), only)
    report.notes = [f"cooperative cancel of {outcome}" for outcome in cooperative]
    report.more = {"cooperative": [asdict(outcome) for outcome in cooperative]}
    report.draw = partial(draw, report.results, cooperative, report.figures, plan.never_s)
    report.publish(as_json)


async def _measure(plan: Plan, results: Samples, chosen: dict[str, scenarios.Scenario | None]) -> list[CancelOutcome]:
    with PidfdWatcher() as watcher:
        parts = {name: partial(part, watcher=watcher) for name, part in chosen.items() if part is not None}
        await runner.measure(plan, results, parts)
    if COOPERATIVE not in chosen:
        return []
    runner.progress.print(f"{COOPERATIVE}, once: {plan.never_s:g} s")
    workloads = [name for name in cooperative_cancel.WORK if name != "encode" or tokenizer_jobs.IS_INSTALLED]
    return await asyncio.gather(
        *(
            asyncio.to_thread(cooperative_cancel.time_to_stop, workload, mechanism, plan.never_s)
            for workload in workloads
            for mechanism in cooperative_cancel.MECHANISMS
        )
    )


# ── figures; the targets are those of the project's issue "The kill, end to end" ──

ACK_MS = (DEFAULT_LIMITS["ack_s"] or 0.0) * 1000
RAW_RATIO_MAX = 1.5
DELETE_MS_MAX = 5.0
NATIVE_OVER_ACK_MS_MAX = 20.0
NATIVE_BATCH_MS_MAX = 1100.0
IGNORING_BATCH_MS_MAX = 1250.0
FIRST_LINE_MS_MAX = 0.1
FLOOD_RATIO_MAX = 3.0
FLOOD_OVER_MS_MAX = 10.0
TOKENS_PER_S_MIN = 500_000.0
NATIVE_CALLS = {"native_loop": "sum(range(10**18))", "encode": "tokenizers' encode, 4.7 MB"}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value; medians unless stated otherwise."""
    return [
        *(_ratio_to_raw(results, *native) for native in NATIVE_CALLS.items()),
        Figure(
            "DELETE, grace 0 → response with certificate",
            DELETE_MS_MAX, results.median(scenarios.DELETED), "ms", digits=2,
            note=results.spread(scenarios.DELETED, 2),
        ),
        *_native_with_grace(results),
        Figure(
            "16 SIGTERM-ignoring jobs, grace 1 s → all dead",
            IGNORING_BATCH_MS_MAX, results.median(scenarios.IGNORING_DEAD), "ms",
            note=results.spread(scenarios.IGNORING_DEAD),
        ),
        *_cleaned(results),
        *(_first_line(results, worker) for worker in (scenarios.FRESH, scenarios.REUSED)),
        _flooded(results),
        Figure(
            "one job, one emit per token → reader in the supervisor",
            TOKENS_PER_S_MIN, results.median(scenarios.TOKENS_PER_S), "tokens/s", at_least=True, digits=0,
            note=results.spread(scenarios.TOKENS_PER_S, 0),
        ),
    ]  # fmt: skip


def _ratio_to_raw(results: Samples, workload: str, label: str) -> Figure:
    """Compare the medians of one run, in which both kinds of trial took turns."""
    cancel_ms = results.median(phase_name(workload, GRACE_0, DEAD))
    raw_ms = results.median(phase_name(workload, RAW, DEAD))
    what = f"cancel, grace 0 → dead, native call ({label})"
    if cancel_ms is None or raw_ms is None:
        return Figure(what, RAW_RATIO_MAX, None, "× raw kill", digits=2)
    note = f"{cancel_ms:.2f} ms; raw kill + pidfd {raw_ms:.2f} ms"
    return Figure(what, RAW_RATIO_MAX, cancel_ms / raw_ms, "× raw kill", digits=2, note=note)


def _native_with_grace(results: Samples) -> Iterator[Figure]:
    bound_ms = ACK_MS + NATIVE_OVER_ACK_MS_MAX
    target = f"≤ ack_s + {NATIVE_OVER_ACK_MS_MAX:.0f} = {bound_ms:.0f} ms"
    for workload, label in NATIVE_CALLS.items():
        name = scenarios.per_core_dead(workload)
        what = f"{label}: grace 5 s, one job per core → dead"
        raw_ms = results.median(phase_name(workload, RAW_LATE, DEAD))
        note = results.spread(name) + ("" if raw_ms is None else f"; raw kill after ack_s {raw_ms:.1f} ms")
        yield Figure(what, bound_ms, results.median(name), "ms", target_text=target, note=note)
        name = scenarios.last_dead(workload)
        what = f"{label}: grace 5 s, 16 jobs → last one dead"
        yield Figure(what, NATIVE_BATCH_MS_MAX, results.median(name), "ms", note=results.spread(name))
    name = scenarios.HELPERS_DEAD
    what = "helper threads compute, main thread waits: grace 5 s → dead"
    yield Figure(what, bound_ms, results.median(name), "ms", target_text=target, note=results.spread(name))


def _cleaned(results: Samples) -> Iterator[Figure]:
    bare, bare_jobs = results.total(scenarios.BARE_CLEANED), results.total(scenarios.BARE_JOBS)
    bare_note = "" if bare is None else f"with a bare ack_s rule {bare:.0f} of {bare_jobs:.0f}"
    quota = "16 Python jobs in a 5 % processor quota, grace 5 s: cleaned up"
    ordinary = "cancels of json, sorting, imports, grace 2 s: finally ran"
    for what, jobs, cleaned, note in (
        (quota, scenarios.QUOTA_JOBS, scenarios.QUOTA_CLEANED, bare_note),
        (ordinary, scenarios.ORDINARY_JOBS, scenarios.ORDINARY_CLEANED, ""),
    ):
        number = results.total(jobs) or 0.0
        target = f"all {number:.0f} jobs" if number else "all jobs"
        yield Figure(
            what, number, results.total(cleaned), "jobs", at_least=True, digits=0, target_text=target, note=note
        )


def _first_line(results: Samples, worker: str) -> Figure:
    at_once, later = (scenarios.first_line(worker, pause_s) for pause_s in scenarios.PAUSES_S)
    pause_ms = scenarios.PAUSES_S[1] * 1000
    later_ms = results.median(later)
    note = results.spread(at_once, 3) + ("" if later_ms is None else f"; after {pause_ms:g} ms idle {later_ms:.3f}")
    what = f"submit → first line of the job, {worker} warm worker, in process"
    return Figure(what, FIRST_LINE_MS_MAX, results.median(at_once), "ms", digits=3, note=note)


def _flooded(results: Samples) -> Figure:
    what = "cancel → certificate, p99, beside a flooding job whose client does not read"
    idle_ms = results.median(scenarios.IDLE_CANCEL)
    if idle_ms is None:
        return Figure(what, 0.0, None, "ms", target_text="≤ 3 × idle p50 + 10 ms")
    bound_ms = FLOOD_RATIO_MAX * idle_ms + FLOOD_OVER_MS_MAX
    dead_ms = results.percentile(scenarios.FLOODED_DEAD, 99)
    return Figure(
        what,
        bound_ms,
        results.percentile(scenarios.FLOODED_CANCEL, 99),
        "ms",
        target_text=f"≤ 3 × idle p50 + 10 = {bound_ms:.1f} ms",
        note="" if dead_ms is None else f"idle p50 {idle_ms:.2f}; dead p99 {dead_ms:.1f}",
    )


# ── chart ──

WORKLOADS = {
    "python_loop": "loop in Python",
    "native_loop": "native call that holds the GIL\nsum(range(10**18))",
    "encode": "native call that holds the GIL\ntokenizers' encode, 4.7 MB",
    "ignores_sigterm": "ignores the request\n(SIGTERM; CancelledError)",
}
KILLABLE_COLOUR = "#1b6ca8"
RAW_COLOUR = "#555555"
NEVER_COLOUR = "#c0392b"
OK_COLOUR = "#2e8b57"
SERIES: tuple[tuple[str, str, str, str, str], ...] = (
    (RAW, DEAD, "s", RAW_COLOUR, "raw kill + pidfd: the limit"),
    (GRACE_0, DEAD, "o", KILLABLE_COLOUR, "killable, grace 0: dead"),
    (GRACE_0, CERTIFICATE, "|", KILLABLE_COLOUR, "… certificate returned"),
    (GRACE_0, SSE, "4", KILLABLE_COLOUR, "… terminal event at an HTTP client"),
    (GRACE_DEFAULT, DEAD, "D", KILLABLE_COLOUR, "killable, default grace (5 s): dead"),
)
"""Mechanism, phase, marker, colour and label of each series."""
NEVER_MS = 60_000.0
"""Position of "never" on the axis: beyond every measured value."""


def draw(
    results: Samples, cooperative: Sequence[CancelOutcome], figures: Sequence[Figure], never_s: float, path: Path
) -> None:
    """Write the chart as a PNG. Raise ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [workload for workload in WORKLOADS if phase_name(workload, RAW, DEAD) in results]
    measured = [figure for figure in figures if figure.share_of_bound is not None]
    chart, (cancels, bounds) = pyplot.subplots(
        2, 1, figsize=(12, 2.6 + 1.25 * len(shown) + 0.34 * len(measured)),
        height_ratios=(1.25 * len(shown) + 0.8, 0.34 * len(measured) + 0.4), layout="constrained",
    )  # fmt: skip
    for row, workload in enumerate(shown):
        _draw_workload(cancels, results, row, workload)
        _draw_cooperative(cancels, row, [outcome for outcome in cooperative if outcome.workload == workload])
    _format_cancels(cancels, shown, never_s)
    _draw_bounds(bounds, measured)
    chart.savefig(path, dpi=130)
    pyplot.close(chart)


def _draw_workload(axes: Any, results: Samples, row: int, workload: str) -> None:
    for lane, (mechanism, phase, marker, colour, label) in enumerate(SERIES):
        name = phase_name(workload, mechanism, phase)
        if name not in results:
            continue
        height = row - 0.3 + 0.12 * lane
        middle = results.median(name)
        low, high = results.percentile(name, 5), results.percentile(name, 95)
        axes.plot([low, high], [height, height], color=colour, linewidth=1, alpha=0.5)
        axes.plot(
            [middle], [height], marker, color=colour, markersize=9 if marker in "|4" else 7, markeredgewidth=2,
            markerfacecolor="none" if mechanism == GRACE_DEFAULT else colour,
            label=label if row == 0 else None,
        )  # fmt: skip
        if phase == DEAD:
            axes.annotate(
                _duration(middle or 0.0), (high, height), xytext=(7, 0), textcoords="offset points",
                va="center", fontsize=8, color=colour,
            )  # fmt: skip


def _draw_cooperative(axes: Any, row: int, outcomes: list[CancelOutcome]) -> None:
    for lane, outcome in enumerate(outcomes):
        height = row - 0.2 + 0.35 * lane
        stopped_ms = NEVER_MS if outcome.stopped_ms is None else outcome.stopped_ms
        axes.plot(
            [stopped_ms], [height], "x", color=NEVER_COLOUR, markersize=8, markeredgewidth=2.2,
            label="cooperative: asyncio task, thread" if row == 0 and lane == 0 else None,
        )  # fmt: skip
        axes.annotate(
            outcome.mechanism, (stopped_ms, height), xytext=(0, 6), textcoords="offset points",
            ha="center", fontsize=8, color=NEVER_COLOUR,
        )  # fmt: skip


def _format_cancels(axes: Any, shown: list[str], never_s: float) -> None:
    axes.axvspan(NEVER_MS / 2.6, NEVER_MS * 3, color=NEVER_COLOUR, alpha=0.07, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(0.3, NEVER_MS * 3)
    axes.set_xticks(
        [0.5, 1, 2, 5, 10, 100, 1000, 5000, NEVER_MS],
        ["0.5 ms", "1", "2", "5", "10", "100", "1 s", "5 s", f"never\n(alive after {never_s:g} s)"],
    )
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [WORKLOADS[workload] for workload in shown])
    axes.set_ylim(len(shown) - 0.45, -0.55)
    for row in range(1, len(shown)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.8)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_title("cancel → dead (medians; lines from the 5th to the 95th percentile)", loc="left", fontsize=12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.09), ncols=3, fontsize=8.5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bounds(axes: Any, figures: list[Figure]) -> None:
    """Draw each measured value relative to its bound, which is the line at 1."""
    for row, figure in enumerate(figures):
        share = figure.share_of_bound
        assert share is not None
        colour = OK_COLOUR if figure.verdict == "ok" else NEVER_COLOUR
        axes.barh(row, share - 0.01, left=0.01, color=colour, height=0.62)
        missed = "" if figure.verdict == "ok" else "   MISS"
        axes.annotate(
            f"{figure.measured_text}   (target: {figure.target}){missed}", (max(share, 1.0), row), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color="#333333", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(0.02, 60)
    axes.set_xticks([0.1, 0.25, 0.5, 1, 2, 5], ["0.1", "¼", "½", "target", "2 ×", "5 ×"])
    axes.minorticks_off()
    axes.set_yticks(range(len(figures)), [figure.what for figure in figures], fontsize=8)
    axes.set_ylim(len(figures) - 0.4, -0.6)
    axes.set_title("measured value relative to its target (left of the line: target met)", loc="left", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)


def _duration(ms: float) -> str:
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


if __name__ == "__main__":
    runner.run(main, __doc__, examples=['--only "one job at a time"'])
