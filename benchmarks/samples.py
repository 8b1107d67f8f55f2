"""What was measured: every single value, by name, and the statistics that are made of them.

Runs in: the benchmark. Pure.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field

GRACE_0 = "grace 0"
GRACE_DEFAULT = "default grace"
RAW = "raw kill"
RAW_LATE = "raw kill after another ack_s"

DEAD = "dead"
CERTIFICATE = "certificate"
SSE = "terminal SSE event"


def ending(workload: str, mechanism: str, phase: str) -> str:
    """Return the name under which the milliseconds from cancel to a phase of an ending stand."""
    return f"{workload} · {mechanism} · {phase}"


def beside(measure: str, peer: str) -> str:
    """Return the name under which the values of one of several that are compared stand."""
    return f"{measure} · {peer}"


@dataclass
class Samples:
    """Values by name; a name's unit stands at its end."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    remarks: list[str] = field(default_factory=list)
    """What a number does not say: why a figure was not measured, which job lost its clean-up."""

    words: dict[str, str] = field(default_factory=dict)
    """What stands in the place of a number, or beside it: it never ended, it cannot do that."""

    strangers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By part: the share of all processors that others used while its samples were taken, pass by pass."""

    def add(self, name: str, *values: float) -> None:
        self.values[name].extend(values)

    def take_over(self, others: Samples) -> None:
        """Add the values and remarks of one measurement."""
        for name, values in others.values.items():
            self.add(name, *values)
        self.remarks.extend(others.remarks)
        self.words.update(others.words)

    def __contains__(self, name: str) -> bool:
        return bool(self.values.get(name))

    def median(self, name: str) -> float | None:
        return statistics.median(self.values[name]) if name in self else None

    def percentile(self, name: str, percent: float) -> float | None:
        """Return the smallest value that is not below `percent` of all (nearest rank)."""
        if name not in self:
            return None
        ordered = sorted(self.values[name])
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    def total(self, name: str) -> float | None:
        return sum(self.values[name]) if name in self else None

    def count(self, name: str) -> int:
        return len(self.values.get(name, ()))

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Return count, median, p99, least and greatest by name, ready for JSON."""
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
