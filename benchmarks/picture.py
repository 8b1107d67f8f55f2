"""The picture: how long after the cancel a job was dead, by workload and by how it was asked.

Runs in: the benchmark. Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cooperative import Politeness
from figure import Figure
from samples import CERTIFICATE, DEAD, GRACE_0, GRACE_DEFAULT, RAW, SSE, Samples, ending

WORKLOADS = {
    "python_loop": "loop in Python",
    "native_loop": "native call that holds the GIL\nsum(range(10**18))",
    "encode": "native call that holds the GIL\ntokenizers' encode, 4.7 MB",
    "ignores_sigterm": "ignores the request\n(SIGTERM; CancelledError)",
}
KILLABLE = "#1b6ca8"
LIMIT = "#555555"
NEVER = "#c0392b"
REACHED = "#2e8b57"
SERIES: tuple[tuple[str, str, str, str, str], ...] = (
    (RAW, DEAD, "s", LIMIT, "raw kill + pidfd: the limit"),
    (GRACE_0, DEAD, "o", KILLABLE, "killable, grace 0: dead"),
    (GRACE_0, CERTIFICATE, "|", KILLABLE, "… certificate returned"),
    (GRACE_0, SSE, "4", KILLABLE, "… terminal event at an HTTP client"),
    (GRACE_DEFAULT, DEAD, "D", KILLABLE, "killable, default grace (5 s): dead"),
)
NEVER_MS = 60_000.0
"""Where "never" stands on the axis: beyond everything that ends."""


def draw(results: Samples, polite: Sequence[Politeness], lines: Sequence[Figure], never_s: float, path: Path) -> None:
    """Write the PNG. Raise ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [workload for workload in WORKLOADS if ending(workload, RAW, DEAD) in results]
    measured = [line for line in lines if line.share_of_bound is not None]
    figure, (endings, bounds) = pyplot.subplots(
        2, 1, figsize=(12, 2.6 + 1.25 * len(shown) + 0.34 * len(measured)),
        height_ratios=(1.25 * len(shown) + 0.8, 0.34 * len(measured) + 0.4), layout="constrained",
    )  # fmt: skip
    _draw_endings(endings, results, polite, shown, never_s)
    _draw_bounds(bounds, measured)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_endings(axes: Any, results: Samples, polite: Sequence[Politeness], shown: list[str], never_s: float) -> None:
    for row, workload in enumerate(shown):
        for lane, (mechanism, phase, mark, colour, label) in enumerate(SERIES):
            name = ending(workload, mechanism, phase)
            if name not in results:
                continue
            height = row - 0.3 + 0.12 * lane
            middle = results.median(name)
            low, high = results.percentile(name, 5), results.percentile(name, 95)
            axes.plot([low, high], [height, height], color=colour, linewidth=1, alpha=0.5)
            axes.plot(
                [middle], [height], mark, color=colour, markersize=9 if mark in "|4" else 7, markeredgewidth=2,
                markerfacecolor="none" if mechanism == GRACE_DEFAULT else colour,
                label=label if row == 0 else None,
            )  # fmt: skip
            if phase == DEAD:
                axes.annotate(
                    _duration(middle or 0.0), (high, height), xytext=(7, 0), textcoords="offset points",
                    va="center", fontsize=8, color=colour,
                )  # fmt: skip
        _draw_polite(axes, row, [each for each in polite if each.workload == workload])
    axes.axvspan(NEVER_MS / 2.6, NEVER_MS * 3, color=NEVER, alpha=0.07, linewidth=0)
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


def _draw_polite(axes: Any, row: int, polite: list[Politeness]) -> None:
    """The cooperative baseline: an asyncio task, a thread."""
    for lane, each in enumerate(polite):
        height = row - 0.2 + 0.35 * lane
        never = each.stopped_ms is None
        axes.plot(
            [NEVER_MS if never else each.stopped_ms], [height], "x", color=NEVER, markersize=8, markeredgewidth=2.2,
            label="cooperative: asyncio task, thread" if row == 0 and lane == 0 else None,
        )  # fmt: skip
        axes.annotate(
            each.mechanism, (NEVER_MS if never else each.stopped_ms, height), xytext=(0, 6),
            textcoords="offset points", ha="center", fontsize=8, color=NEVER,
        )  # fmt: skip


def _draw_bounds(axes: Any, lines: list[Figure]) -> None:
    """How much of each asked bound was used; the line at 1 is the bound."""
    for row, line in enumerate(lines):
        share = line.share_of_bound
        assert share is not None
        colour = REACHED if line.verdict == "ok" else NEVER
        axes.barh(row, share - 0.01, left=0.01, color=colour, height=0.62)
        measured = f"{line.measured:,.{line.digits}f} {line.unit}".rstrip()
        missed = "" if line.verdict == "ok" else "   MISS"
        axes.annotate(
            f"{measured}   (asked: {line.asked}){missed}", (max(share, 1.0), row), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color="#333333", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(0.02, 60)
    axes.set_xticks([0.1, 0.25, 0.5, 1, 2, 5], ["0.1", "¼", "½", "as asked", "2 ×", "5 ×"])
    axes.minorticks_off()
    axes.set_yticks(range(len(lines)), [line.what for line in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_title("used of what was asked", loc="left", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)


def _duration(ms: float) -> str:
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"
