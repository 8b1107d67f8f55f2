"""Draws the results of a run as an SVG, and makes a PNG of it with resvg.

Runs in: any machine. Light or dark as its reader has it; a PNG is light.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from killable.api.cli.bench import tables
from killable.api.cli.bench.machine import words
from killable.api.cli.bench.percentiles import median
from killable.api.cli.bench.results import OWN, SHARE, Results, Row

WIDTH, MARGIN = 960, 40
LANE_LEFT, LANE_RIGHT = 290, 720
LANE, HEADING, TILE = 36, 70, 84
TILES_A_LINE = 4
DOTS_MAX = 200
"""With more values a lane is a histogram."""
BINS = 110
PNG_ZOOM = 2
_STYLE = """
text { font-family: Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; font-size: 13px;
  fill: #1f2933 }
.paper { fill: #ffffff } .title { font-size: 22px; font-weight: 700 } .heading { font-size: 15px; font-weight: 700 }
.quiet { fill: #64707d; font-size: 12px } .value { font-weight: 700 } .big { font-size: 24px; font-weight: 700 }
.axis { stroke: #e3e7eb; stroke-width: 1 } .ours { fill: #1b6ca8 } .bare { fill: #8a939c }
.mark { stroke: #1b6ca8; stroke-width: 2.5 } .baremark { stroke: #59626b; stroke-width: 2 } .tile { fill: #f3f6f8 }
.soft { fill: #a9cbe4 } .warn { fill: #fdf1d8 } .warned { fill: #7a4b00; font-size: 12px }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaee } .paper { fill: #14181d } .quiet { fill: #9aa5b1 } .axis { stroke: #2b333b }
  .ours { fill: #5fb0ec } .mark { stroke: #8cc8f5 } .bare { fill: #77828d } .baremark { stroke: #b3bcc5 }
  .tile { fill: #1d242b } .soft { fill: #2c5878 } .warn { fill: #3d2f10 } .warned { fill: #f3cf8a }
}
"""


def why_not(path: Path) -> str:
    """Return why no picture can be written to this path; empty: it can."""
    if path.suffix not in (".svg", ".png"):
        return f"{path} ends neither with .svg nor with .png"
    if path.suffix == ".png" and importlib.util.find_spec("resvg_py") is None:
        return "a PNG needs resvg-py: pip install 'killable[picture]', or take FILE.svg"
    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        return f"{path} cannot be written"
    return ""


def draw(results: Results, document: Mapping[str, Any], path: Path) -> None:
    """Write the picture. Raise OSError."""
    svg = picture(results, document)
    drawn = svg.encode()
    if path.suffix == ".png":
        import resvg_py

        drawn = resvg_py.svg_to_bytes(svg_string=svg, zoom=PNG_ZOOM)
    try:
        path.write_bytes(drawn)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # that of a full disk names no file


def picture(results: Results, document: Mapping[str, Any]) -> str:
    """Return the SVG."""
    sheet = _Sheet()
    sheet.head(document)
    rows = {name: [row for row in results.rows if tables.section_of(row) == name and row.p50 is not None] for name in
            (tables.CANCELS, tables.RECOVERY, tables.SERVER, tables.LOAD, tables.RATES, tables.MEMORY)}  # fmt: skip
    sheet.lanes("From the cancel until the job is dead", rows[tables.CANCELS], _beside_bare)
    sheet.lanes("After a kill", rows[tables.RECOVERY], _p99)
    sheet.lanes("The server", rows[tables.SERVER], _p99)
    sheet.lanes("From the event until its reader has it", rows[tables.LOAD], _loss)
    sheet.tiles("In a second", rows[tables.RATES])
    sheet.bars("Memory", rows[tables.MEMORY])
    return sheet.svg()


def _beside_bare(row: Row) -> str:
    ratio = f", {row.ratio:.1f} × bare" if row.ratio else ""
    return f"p99 {tables.number(row.p99)}{ratio}"


def _p99(row: Row) -> str:
    return f"p99 {tables.number(row.p99)}"


def _loss(row: Row) -> str:
    lost = f"{row.facts['lost']:.0f} lost" if row.facts.get("lost") else "none lost"
    return f"p99 {tables.number(row.p99)}, {lost}"


class _Sheet:
    """The drawing so far; `_y` is where the next part begins."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._y = 0.0

    def svg(self) -> str:
        height = self._y + MARGIN / 2
        return "\n".join((
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
            f'height="{height:.0f}" role="img" aria-label="What killable bench measured">',
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>',
            *self._parts,
            "</svg>\n",
        ))  # fmt: skip

    def head(self, document: Mapping[str, Any]) -> None:
        machine, noise = document["machine"], document["noise"]
        self._text(MARGIN, 48, "killable bench", "title")
        self._text(MARGIN, 72, words(machine), "quiet")
        when = document["measured_at"].partition("T")[0]
        self._text(MARGIN, 90, f"killable {document['version']}, {when}, seed {document['seed']}", "quiet")
        share = f"machine noise {max(noise):.0%}".replace("%", " %")
        if tables.is_busy(machine, noise):
            busy = f"{share}, load {machine['load'][0]:.1f}: the machine was busy, and times are longer for it"
            wide = 7.0 * len(busy) + 24
            self._parts.append(f'<rect class="warn" x="{MARGIN}" y="102" width="{wide:.0f}" height="26" rx="6"/>')
            self._text(MARGIN + 12, 119, busy, "warned")
            self._y = 132
        else:
            self._text(WIDTH - MARGIN, 90, share, "quiet", "end")
            self._y = 96

    # ── times, on a logarithmic axis ──

    def lanes(self, title: str, rows: Sequence[Row], note: Callable[[Row], str]) -> None:
        if not rows:
            return
        every = [value for row in rows for value in (*row.values, *row.bare, row.p50 or 0.0) if value > 0]
        low = math.floor(math.log10(max(0.01, min(every))))
        high = max(low + 1, math.ceil(math.log10(max(every))))

        def x(ms: float) -> float:
            share = (math.log10(max(ms, 10.0**low)) - low) / (high - low)
            return LANE_LEFT + share * (LANE_RIGHT - LANE_LEFT)

        self._heading(title)
        bottom = self._y + LANE * len(rows)
        for decade in range(low, high + 1):
            at = x(10.0**decade)
            self._parts.append(f'<path class="axis" d="M{at:.1f} {self._y - 4:.0f}V{bottom:.0f}"/>')
            self._text(at, self._y - 10, _decade(decade), "quiet", "middle")
        if any(row.bare for row in rows):
            self._legend()
        for row in rows:
            self._lane(row, x, note(row))
            self._y += LANE

    def _legend(self) -> None:
        y = self._y - HEADING + 36
        self._parts.append(f'<circle class="ours" cx="{WIDTH - 246}" cy="{y - 4:.0f}" r="4"/>')
        self._text(WIDTH - 238, y, "killable", "quiet")
        self._parts.append(f'<circle class="bare" cx="{WIDTH - 176}" cy="{y - 4:.0f}" r="4"/>')
        self._text(WIDTH - 168, y, "a bare SIGKILL", "quiet")

    def _lane(self, row: Row, x: Callable[[float], float], note: str) -> None:
        middle = self._y + LANE / 2
        self._text(LANE_LEFT - 16, middle + 4, row.what, anchor="end")
        self._values(row.values, x, middle - (6 if row.bare else 0), "ours")
        self._values(row.bare, x, middle + 8, "bare")
        for value, css, at in ((row.p50, "mark", middle - (6 if row.bare else 0)),
                               (median(row.bare), "baremark", middle + 8)):  # fmt: skip
            if value is not None:
                self._parts.append(f'<path class="{css}" d="M{x(value):.1f} {at - 8:.1f}v16"/>')
        self._text(LANE_RIGHT + 16, middle - 2, f"{tables.number(row.p50)} ms", "value")
        self._text(LANE_RIGHT + 16, middle + 13, note, "quiet")

    def _values(self, values: Sequence[float], x: Callable[[float], float], y: float, css: str) -> None:
        if len(values) <= DOTS_MAX:
            self._parts += [
                f'<circle class="{css}" cx="{x(value):.1f}" cy="{y:.1f}" r="3.5" fill-opacity=".4"/>'
                for value in values
            ]
            return
        counts = [0] * (BINS + 1)
        wide = (LANE_RIGHT - LANE_LEFT) / BINS
        for value in values:
            counts[min(BINS, int((x(value) - LANE_LEFT) / wide))] += 1
        for number, count in enumerate(counts):
            if count:
                tall = max(1.5, count / max(counts) * (LANE - 10))
                self._parts.append(
                    f'<rect class="{css}" x="{LANE_LEFT + number * wide:.1f}" y="{y + LANE / 2 - 5 - tall:.1f}" '
                    f'width="{wide - 0.6:.1f}" height="{tall:.1f}" fill-opacity=".55"/>'
                )

    # ── rates and sizes ──

    def tiles(self, title: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._heading(title)
        self._y -= 22
        wide = (WIDTH - 2 * MARGIN + 12) / TILES_A_LINE - 12
        for number, row in enumerate(rows):
            column, line = number % TILES_A_LINE, number // TILES_A_LINE
            left, top = MARGIN + column * (wide + 12), self._y + line * (TILE + 12)
            self._parts.append(
                f'<rect class="tile" x="{left:.0f}" y="{top:.0f}" width="{wide:.0f}" height="{TILE}" rx="8"/>'
            )
            self._text(left + 14, top + 34, tables.number(row.p50), "big")
            what, _, more = row.what.partition(", ")
            self._text(left + 14, top + 54, what, "quiet")
            self._text(left + 14, top + 70, more, "quiet")
        self._y += math.ceil(len(rows) / TILES_A_LINE) * (TILE + 12) - 12

    def bars(self, title: str, rows: Sequence[Row]) -> None:
        """Draw the share of a process as a bar, and in it what is its own."""
        shares = [row for row in rows if row.unit == SHARE]
        if not shares:
            return
        self._heading(title)
        self._y -= 26
        own = {row.what: row.p50 or 0.0 for row in rows if row.unit == OWN}
        most = 1.02 * max(row.p50 or 0.0 for row in shares)
        for row in shares:
            middle, scale = self._y + 14, (LANE_RIGHT - LANE_LEFT) / most
            self._text(LANE_LEFT - 16, middle + 4, row.what, anchor="end")
            for css, size in (("soft", row.p50 or 0.0), ("ours", own[row.what])):
                self._parts.append(
                    f'<rect class="{css}" x="{LANE_LEFT}" y="{middle - 8:.0f}" width="{size * scale:.1f}" height="16"/>'
                )
            self._text(LANE_RIGHT + 16, middle + 4, f"{tables.number(row.p50)} MiB", "value")
            self._text(LANE_RIGHT + 100, middle + 4, f"{tables.number(own[row.what])} its own", "quiet")
            self._y += 28

    def _heading(self, title: str) -> None:
        self._y += HEADING
        self._text(MARGIN, self._y - HEADING + 36, title, "heading")

    def _text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> None:
        kind = f' class="{css}"' if css else ""
        place = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{kind}{place}>{escape(words)}</text>')


def _decade(exponent: int) -> str:
    return f"{10**exponent:g} ms" if exponent < 3 else f"{10 ** (exponent - 3):g} s"
