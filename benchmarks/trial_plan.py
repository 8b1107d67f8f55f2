"""How many trials a run takes, whole or with `--quick`.

Runs in: the benchmark | a trial. Pure. Standard library only: workers are forked from a trial and inherit its imports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


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
    reloads: int = 5
    streams: int = 2
    stream_tokens: int = 1_000_000
    single_tokens: int = 300
    concurrent_tokens: int = 1000
    """Per stream, where many jobs stream to many clients."""
    concurrent_start_s: float = 3.0
    """Time for all these clients to connect before the first token."""
    request_pairs: int = 2000
    kept_jobs: int = 10_000
    """That have ended, beside those that are measured."""
    window_s: float = 30.0
    """Over which processor time is measured."""
    page_s: float = 600.0
    """For which the memory of an open page is looked at."""
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
    executor_programs: int = 5
    """Of each peer, in turns, for a measure that depends on the program or on the second."""
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
    flooded_cancels=20, reloads=2, streams=1, stream_tokens=200_000, single_tokens=100, concurrent_tokens=200,
    request_pairs=500, kept_jobs=2000, window_s=3.0, page_s=30.0, never_s=2.0, executor_kills=5, executor_budget_s=4.0,
    executor_memory_kills=2, executor_deadlines=2, executor_graces=2, executor_after_kills=4, executor_trees=1,
    executor_owners=1, executor_recoveries=2, executor_first_lines=300, executor_idle_first_lines=8,
    executor_noops=3000, executor_rounds=1, executor_tokens=50_000, executor_first_tokens=100,
    executor_programs=2,
)  # fmt: skip
