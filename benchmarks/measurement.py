"""Samples with their statistics, and figures: a target beside a measured value.

Runs in: the benchmark | a trial. Pure. Standard library only: workers are forked from a trial and inherit its imports.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from killable.api.cli.bench import percentiles

GRACE_0 = "grace 0"
GRACE_DEFAULT = "default grace"
RAW = "raw kill"
RAW_LATE = "raw kill after another ack_s"

DEAD = "dead"
CERTIFICATE = "certificate"
SSE = "terminal SSE event"

Verdict = Literal["ok", "MISS", "not measured"]


def phase_name(workload: str, mechanism: str, phase: str) -> str:
    """Return the sample name of: milliseconds from a cancel to one phase of the job's end."""
    return f"{workload} · {mechanism} · {phase}"


def peer_name(measure: str, peer: str) -> str:
    """Return the sample name of one peer's values in a measure that compares several."""
    return f"{measure} · {peer}"


@dataclass
class Samples:
    """Measured values by name. A name ends with the unit of its values."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    remarks: list[str] = field(default_factory=list)
    """Explanations beside the numbers: why a figure was not measured, which job lost its clean-up."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Text that stands for a number, by name: "never", "cannot", "2 left"."""
    other_load: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Share of all processors that other processes used (0 to 1), by part; one value per pass."""

    def add(self, name: str, *values: float) -> None:
        self.values[name].extend(values)

    def merge(self, other: Samples) -> None:
        """Add the values, remarks and outcomes of another measurement."""
        for name, values in other.values.items():
            self.add(name, *values)
        self.remarks.extend(other.remarks)
        self.outcomes.update(other.outcomes)

    def __contains__(self, name: str) -> bool:
        return bool(self.values.get(name))

    def median(self, name: str) -> float | None:
        return percentiles.median(self.values[name]) if name in self else None

    def percentile(self, name: str, percent: float) -> float | None:
        """Return the smallest value that is not below `percent` of all (nearest rank)."""
        return percentiles.percentile(self.values[name], percent) if name in self else None

    def total(self, name: str) -> float | None:
        return sum(self.values[name]) if name in self else None

    def spread(self, name: str, digits: int = 1, percents: Sequence[int] = ()) -> str:
        """Return `p50 …, p99 …; least … greatest (n=count)` without a unit; an empty string without values."""
        if name not in self:
            return ""
        values = self.values[name]
        chosen = [self.median(name) if percent == 50 else self.percentile(name, percent) for percent in percents]
        shown = ", ".join(f"p{percent} {value:,.{digits}f}" for percent, value in zip(percents, chosen, strict=True))
        range_text = f"{min(values):,.{digits}f} … {max(values):,.{digits}f} (n={len(values)})"
        return f"{shown}; {range_text}" if shown else range_text

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return count, median, p99, least and greatest value by name, ready for JSON."""
        return {
            name: {
                "count": len(values),
                "median": self.median(name),
                "p99": self.percentile(name, 99),
                "min": min(values),
                "max": max(values),
            }
            for name, values in self.values.items()
            if values
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a report: a target and what was measured. `bound` and `measured` have the same unit."""

    what: str
    bound: float
    measured: float | None
    unit: str
    at_least: bool = False
    digits: int = 1
    target_text: str = ""
    """The target in words, where it is not just the bound."""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "ok" if reached else "MISS"

    @property
    def target(self) -> str:
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:,.{self.digits}f} {self.unit}".rstrip()
        return self.target_text or bound

    @property
    def measured_text(self) -> str:
        return "–" if self.measured is None else f"{self.measured:,.{self.digits}f} {self.unit}".rstrip()

    @property
    def share_of_bound(self) -> float | None:
        """Measured value relative to the bound; above 1.0 is a miss. None where there is no ratio."""
        if self.measured is None or self.measured == 0:
            return None
        return self.bound / self.measured if self.at_least else self.measured / self.bound

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "target": self.target,
            "bound": self.bound,
            "measured": self.measured,
            "unit": self.unit,
            "verdict": self.verdict,
            "note": self.note,
        }


def median_range(values: Sequence[float]) -> tuple[float, float]:
    """Return between which values the median of all such lies, with 95 %: order statistics, normal approximation."""
    ordered = sorted(values)
    half = 0.98 * math.sqrt(len(ordered))
    middle = len(ordered) / 2
    return ordered[max(0, math.floor(middle - half))], ordered[min(len(ordered) - 1, math.ceil(middle + half))]
