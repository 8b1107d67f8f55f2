"""How many samples a run takes, the samples with their statistics, and figures: a target beside a measured value.

Runs in: the benchmark | a trial. Pure. Standard library only: workers are forked from a trial and inherit its imports.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

GRACE_0 = "grace 0"
GRACE_DEFAULT = "default grace"
RAW = "raw kill"
RAW_LATE = "raw kill after another ack_s"

DEAD = "dead"
CERTIFICATE = "certificate"
SSE = "terminal SSE event"

Verdict = Literal["ok", "MISS", "not measured"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of trials in one pass.

    Medians are taken over all passes: a disturbance spoils one pass and not one figure.
    """

    passes: int = 3
    patience_s: float = 600.0
    """Limit, over the whole run, for waiting until other processes are idle and for repeating disturbed parts."""
    kills: int = 15
    """Per workload: cancels with grace 0, and as many raw kills in turn with them."""
    grace_cancels: int = 3
    """Per workload: cancels with the default grace. Each takes 0.5 s, or 5 s for a job that ignores SIGTERM."""
    deletes: int = 40
    batches: int = 2
    """Per part that cancels many jobs together."""
    ordinary_cancels: int = 667
    first_lines: int = 200
    flooded_cancels: int = 70
    streams: int = 2
    stream_tokens: int = 1_000_000
    single_tokens: int = 300
    concurrent_tokens: int = 1000
    """Per stream, where many jobs stream to many clients."""
    concurrent_start_s: float = 3.0
    """Time for all these clients to connect before the first token."""
    request_pairs: int = 2000
    executor_kills: int = 30
    """This field and the ones below: per peer of the Executor and measure."""
    executor_budget_s: float = 8.0
    """A peer that takes three seconds per repetition gets fewer of them."""
    executor_memory_kills: int = 6
    executor_deadlines: int = 8
    executor_graces: int = 8
    executor_after_kills: int = 15
    executor_trees: int = 5
    executor_owners: int = 3
    executor_recoveries: int = 6
    executor_first_lines: int = 2000
    executor_idle_first_lines: int = 30
    executor_noops: int = 10_000
    executor_rounds: int = 3
    executor_tokens: int = 300_000
    executor_first_tokens: int = 1000
    executor_cold_starts: int = 5
    never_s: float = 10.0
    """A cooperative cancel without effect for this long is reported as "never". Measured once, not per pass."""

    def with_options(self, passes: int | None, patience_s: float | None) -> Plan:
        """Return this plan with the values given on the command line."""
        return replace(
            self,
            passes=self.passes if passes is None else passes,
            patience_s=self.patience_s if patience_s is None else patience_s,
        )


FULL = Plan()
QUICK = Plan(
    passes=1, patience_s=0.0, kills=5, grace_cancels=1, deletes=10, batches=1, ordinary_cancels=100, first_lines=50,
    flooded_cancels=20, streams=1, stream_tokens=200_000, single_tokens=100, concurrent_tokens=200, request_pairs=500,
    never_s=2.0, executor_kills=5, executor_budget_s=4.0, executor_memory_kills=2, executor_deadlines=2,
    executor_graces=2, executor_after_kills=4, executor_trees=1, executor_owners=1, executor_recoveries=2,
    executor_first_lines=300, executor_idle_first_lines=8, executor_noops=3000, executor_rounds=1,
    executor_tokens=50_000, executor_first_tokens=100, executor_cold_starts=2,
)  # fmt: skip


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
        return statistics.median(self.values[name]) if name in self else None

    def percentile(self, name: str, percent: float) -> float | None:
        """Return the smallest value that is not below `percent` of all (nearest rank)."""
        if name not in self:
            return None
        ordered = sorted(self.values[name])
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

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
