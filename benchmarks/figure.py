"""One line of a table: what was asked beside what was measured, and whether it was reached.

Runs in: the benchmark. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from samples import Samples

Verdict = Literal["ok", "MISS", "not measured"]


@dataclass(frozen=True, slots=True)
class Figure:
    """`bound` and `measured` are in the same unit."""

    what: str
    bound: float
    measured: float | None
    unit: str
    at_least: bool = False
    digits: int = 1
    asked_as: str = ""
    """How the bound was asked for, where it is not just a number."""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "ok" if reached else "MISS"

    @property
    def asked(self) -> str:
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:,.{self.digits}f} {self.unit}".rstrip()
        return self.asked_as or bound

    @property
    def share_of_bound(self) -> float | None:
        """How much of what was allowed was used: 1.0 is the bound, above it is a miss."""
        if self.measured is None or self.measured == 0:
            return None
        return self.bound / self.measured if self.at_least else self.measured / self.bound

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "asked": self.asked,
            "bound": self.bound,
            "measured": self.measured,
            "unit": self.unit,
            "verdict": self.verdict,
            "note": self.note,
        }


def spread(results: Samples, name: str, digits: int = 1) -> str:
    """Return `least … greatest (n=count)`."""
    if name not in results:
        return ""
    least, greatest = min(results.values[name]), max(results.values[name])
    return f"{least:,.{digits}f} … {greatest:,.{digits}f} (n={results.count(name)})"


def table(lines: Iterable[Figure]) -> Table:
    """Return asked | measured | verdict, misses marked."""
    shown = Table(title="asked beside measured", title_justify="left")
    shown.add_column("what")
    shown.add_column("asked", justify="right")
    shown.add_column("measured", justify="right")
    shown.add_column("")
    shown.add_column("least … greatest, or what it was compared with", style="dim")
    for line in lines:
        style = {"ok": "green", "MISS": "bold red", "not measured": "yellow"}[line.verdict]
        measured = "–" if line.measured is None else f"{line.measured:,.{line.digits}f} {line.unit}".rstrip()
        shown.add_row(line.what, line.asked, measured, f"[{style}]{line.verdict}[/]", line.note)
    return shown
