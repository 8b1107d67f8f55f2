"""What a run has measured so far: rows of values, what went wrong, what was left.

Runs in: a benchmark. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from killable.api.cli.bench.percentiles import median, percentile

DIGITS = 4
SHARE, OWN = "MiB PSS", "MiB USS"


@dataclass
class Row:
    """One line of the report. It is there from its first value on, so that an interrupted run has it, too."""

    part: str
    what: str
    unit: str
    """Of the values: `ms`, `/s`, SHARE, OWN."""
    values: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    """The same until the caller knows: the answer with the certificate."""
    bare: list[float] = field(default_factory=list)
    """The same of a bare SIGKILL: `os.kill` and `waitpid` on a process that runs the same function."""
    phases: dict[str, list[float]] = field(default_factory=dict)
    """Of the certificates, in milliseconds since the cancel."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers beside it: `lost`, `events`."""
    told_by_server: dict[str, float | None] = field(default_factory=dict)
    """p50 and p99 that a server has measured itself, in place of values."""

    @property
    def p50(self) -> float | None:
        return median(self.values) if self.values else self.told_by_server.get("p50")

    @property
    def p99(self) -> float | None:
        return percentile(self.values, 99) if self.values else self.told_by_server.get("p99")

    @property
    def worst(self) -> float | None:
        """The greatest; of what is better the more there is, the least."""
        return (min if self.unit == "/s" else max)(self.values, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as long it takes as a bare SIGKILL, by the medians."""
        ours, bare = self.p50, median(self.bare)
        return ours / bare if ours is not None and bare else None

    def add_phases(self, certificate: dict[str, Any], names: tuple[str, ...]) -> None:
        for name in names:
            if isinstance(certificate.get(name), (int, float)):
                self.phases.setdefault(name, []).append(float(certificate[name]))

    def count(self, fact: str, number: float) -> None:
        self.facts[fact] = self.facts.get(fact, 0) + number

    def as_json(self) -> dict[str, Any]:
        return {
            "part": self.part, "what": self.what, "unit": self.unit,
            **_summary(self.values),
            "told": _summary(self.told) if self.told else None,
            "bare": _summary(self.bare) if self.bare else None,
            "ratio": _rounded(self.ratio),
            "told_by_server": self.told_by_server or None,
            "phases": {name: _summary(values) for name, values in self.phases.items()},
            "facts": {name: _rounded(value) for name, value in self.facts.items()},
            "values": [_rounded(value) for value in self.values],
        }  # fmt: skip


@dataclass
class Results:
    """All rows in their order, with what is to be said beside them."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Why a figure is not there, or is not what it seems."""
    failures: list[str] = field(default_factory=list)
    """What makes the exit code 1: a part that failed, something lost, a process left."""
    left: list[str] = field(default_factory=list)
    """Processes that a server left behind."""
    is_interrupted: bool = False
    on_row: Callable[[Row], None] = lambda _row: None
    """Called with a row before the next value of it is measured."""

    def row_of(self, part: str, what: str, unit: str) -> Row:
        """Return the row of that name, which is made on first use."""
        for row in self.rows:
            if (row.part, row.what, row.unit) == (part, what, unit):
                break
        else:
            row = Row(part, what, unit)
            self.rows.append(row)
        self.on_row(row)
        return row


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "count": len(values),
        "min": _rounded(min(values, default=None)),
        "p50": _rounded(median(values)),
        "p99": _rounded(percentile(values, 99)),
        "max": _rounded(max(values, default=None)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
