"""One peer in one measure: how often, how long, and where its numbers and words go.

Runs in: a trial.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from plan import Plan
from samples import Samples, beside

from executor import tasks
from executor.peers import WORKERS, Peer

CANNOT = "cannot"
NEVER = "never"
BUDGET_S = 8.0
"""For the trials of one measure: a peer that takes three seconds for one has fewer of them."""
REST_S = 0.02
"""Between two trials: a new worker is forked meanwhile, its caches are what they are."""


@dataclass(frozen=True, slots=True)
class Contest:
    kind: type[Peer]
    plan: Plan
    results: Samples

    def add(self, measure: str, *values: float) -> None:
        self.results.add(beside(measure, self.kind.name), *values)

    def say(self, measure: str, word: str) -> None:
        """Put a word where there is no number, or beside it."""
        self.results.words[beside(measure, self.kind.name)] = word

    @contextmanager
    def warm(self, workers: int = WORKERS) -> Iterator[Peer]:
        """A pool whose workers have all run something."""
        with self.kind(workers) as peer:
            warm_up(peer, workers)
            yield peer


def warm_up(peer: Peer, workers: int) -> None:
    for future in [peer.submit(tasks.rest, 0.1) for _ in range(workers)]:
        future.result()
    time.sleep(REST_S)


def within_budget(count: int) -> Iterator[int]:
    """Count, as long as there is time; once at least."""
    until = time.monotonic() + BUDGET_S
    for number in range(count):
        yield number
        time.sleep(REST_S)
        if time.monotonic() > until:
            return
