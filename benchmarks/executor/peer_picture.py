"""The picture: how many times what killable takes the others take, line by line.

Runs in: the benchmark. Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

from pathlib import Path

from samples import RAW

from executor.comparison import COLUMNS, Row, short, shown
from executor.peers import Library, Loky, Pebble, SpawningLibrary
from executor.served import Celery, Dask, Ray, Rq

KILLABLE = "#1b6ca8"
NEVER = "#c0392b"
MARKS: dict[str, tuple[str, str]] = {
    RAW: ("s", "#555555"),
    Library.name: ("o", "#d98200"),
    SpawningLibrary.name: ("d", "#8a5a00"),
    Loky.name: ("^", "#7b3fa0"),
    Pebble.name: ("v", "#2e8b57"),
    Celery.name: ("P", "#a3c644"),
    Rq.name: ("X", "#b03a2e"),
    Dask.name: ("<", "#e39ac0"),
    Ray.name: (">", "#00a0b0"),
}
NEVER_AT = 30_000.0
"""Where those stand that never do it, or cannot, or leave something alive: the first of them."""
NEVER_WIDTH = 10
NEXT_TO = 1.4
"""From one of these to the next."""


def draw(rows: list[Row], path: Path) -> None:
    """Write the PNG. Raise ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(13, 1.8 + 0.42 * len(rows)), layout="constrained")
    labelled: set[str] = set()
    for height, row in enumerate(rows):
        axes.axhline(height, color="#eeeeee", linewidth=0.8, zorder=0)
        ours = "not measured" if row.ours is None else f"{shown(row.ours, row.digits)} {row.unit}".rstrip()
        axes.annotate(
            ours, (1, height), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7, color=KILLABLE
        )
        words = [peer for peer in COLUMNS if peer in row.words]
        for peer in COLUMNS:
            times = NEVER_AT * NEXT_TO ** words.index(peer) if peer in words else row.times_worse(peer)
            if times is None:
                continue
            mark, colour = MARKS[peer]
            label = None if peer in labelled else short(peer)
            labelled.add(peer)
            axes.plot([times], [height], mark, color=colour, markersize=7, alpha=0.85, label=label)
    axes.axvline(1, color=KILLABLE, linewidth=1.6, label="killable")
    axes.axvspan(NEVER_AT / 2, NEVER_AT * NEVER_WIDTH, color=NEVER, alpha=0.07, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(0.015, NEVER_AT * NEVER_WIDTH)
    axes.set_xticks(
        [0.02, 0.1, 0.5, 1, 2, 5, 10, 100, 1000, NEVER_AT * 2],
        [
            "1/50",
            "1/10",
            "½",
            "killable",
            "2 ×",
            "5 ×",
            "10 ×",
            "100 ×",
            "1,000 ×",
            "never, cannot,\nor leaves some alive",
        ],
    )
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.figure.what for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_title("times worse than killable: to the left of the line a peer is better", loc="left", fontsize=12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=10, fontsize=8.5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
