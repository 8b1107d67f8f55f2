"""How much is measured in one run.

Runs in: the benchmark. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Plan:
    """Trials of one pass; medians are taken over all passes, so that a noisy moment spoils one pass, not one figure."""

    passes: int = 3
    patience_s: float = 600.0
    """In all: for waiting until nobody else computes, and for repeating what was measured while somebody did."""
    kills: int = 15
    """Per workload: with grace 0, and as many raw kills between them."""
    graces: int = 3
    """Per workload, with the default grace: half a second each, five for a job that ignores SIGTERM."""
    deletes: int = 40
    crowds: int = 2
    ordinary_cancels: int = 667
    first_lines: int = 200
    flooded_cancels: int = 70
    streams: int = 2
    stream_tokens: int = 1_000_000
    alone_tokens: int = 300
    crowd_tokens: int = 1000
    crowd_start_s: float = 3.0
    """For all clients of a crowd to be there before its first token."""
    pairs: int = 2000
    executor_kills: int = 30
    """From here on: of each peer of the Executor, in each measure."""
    hoard_kills: int = 6
    executor_deadlines: int = 8
    executor_graces: int = 8
    executor_families: int = 5
    executor_owners: int = 3
    executor_recoveries: int = 6
    executor_first_lines: int = 2000
    executor_noops: int = 10_000
    executor_rounds: int = 3
    executor_tokens: int = 300_000
    executor_first_tokens: int = 1000
    executor_colds: int = 5
    never_s: float = 10.0
    """After which a polite cancel is called never; once, not per pass."""

    def changed(self, passes: int | None, patience_s: float | None) -> Plan:
        """Return this plan with what was asked for on the command line."""
        return replace(
            self,
            passes=self.passes if passes is None else passes,
            patience_s=self.patience_s if patience_s is None else patience_s,
        )


FULL = Plan()
QUICK = Plan(
    passes=1, patience_s=0.0, kills=5, graces=1, deletes=10, crowds=1, ordinary_cancels=100, first_lines=50,
    flooded_cancels=20, streams=1, stream_tokens=200_000, alone_tokens=100, crowd_tokens=200, pairs=500, never_s=2.0,
    executor_kills=5, hoard_kills=2, executor_deadlines=2, executor_graces=1, executor_families=1, executor_owners=1,
    executor_recoveries=2, executor_first_lines=300, executor_noops=3000, executor_rounds=1, executor_tokens=50_000,
    executor_first_tokens=100, executor_colds=2,
)  # fmt: skip
