"""What is measured, of whom.

Runs in: any. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import kills
import speeds
import warmth
from contest import Contest
from peers import Killable, Library, Loky, Pebble, SpawningLibrary

ALL = (Killable.name, Library.name, Loky.name, Pebble.name)


@dataclass(frozen=True, slots=True)
class Measure:
    run: Callable[[Contest], None]
    peers: tuple[str, ...] = ALL
    once: bool = False
    """One value of one process: several processes, then."""


MEASURES: dict[str, Measure] = {
    **{f"cancel {workload}": Measure(partial(kills.cancels, workload)) for workload in kills.CANCELS},
    "timeout": Measure(kills.deadline),
    "grace": Measure(kills.graces),
    "children": Measure(kills.children),
    "owner": Measure(kills.owner),
    "types": Measure(kills.types),
    "first line": Measure(speeds.first_lines),
    "first line, busy program": Measure(speeds.busy_first_lines),
    "no-ops": Measure(speeds.noops),
    "map": Measure(speeds.maps),
    "bytes": Measure(speeds.large_bytes),
    "stream": Measure(speeds.streams),
    "cold": Measure(speeds.cold, (*ALL, SpawningLibrary.name), once=True),
    "recovery": Measure(warmth.recovers),
    "recovery, no spare": Measure(warmth.recovers_without_spare, (Killable.name,)),
    "memory": Measure(warmth.memory),
}
