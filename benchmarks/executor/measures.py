"""What is measured, of whom.

Runs in: any. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from executor import kills, speeds, warmth
from executor.contest import Contest
from executor.peers import LIBRARIES, Killable, Library, Loky, Pebble, Peer, SpawningLibrary
from executor.served import SERVED, Celery, Dask, Ray, Rq

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*LIBRARIES, *SERVED)}
ALL = (Killable.name, Library.name, Loky.name, Pebble.name)
STOPPING = (*ALL, Celery.name, Rq.name, Ray.name)
"""With those that stop a job, and are no library of the program."""


@dataclass(frozen=True, slots=True)
class Measure:
    run: Callable[[Contest], None]
    peers: tuple[str, ...] = ALL
    once: bool = False
    """One value of one process: several processes, then."""


MEASURES: dict[str, Measure] = {
    **{
        f"cancel {workload}": Measure(
            partial(kills.cancels, workload), ALL if workload.startswith("hoards") else STOPPING
        )
        for workload in kills.CANCELS
    },
    "timeout": Measure(kills.deadline, (*ALL, Celery.name, Rq.name)),
    "grace": Measure(kills.graces, STOPPING),
    "children": Measure(kills.children, STOPPING),
    "owner": Measure(kills.owner, (*STOPPING, Dask.name)),
    "types": Measure(kills.types, STOPPING),
    "first line": Measure(speeds.first_lines, (*STOPPING, Dask.name)),
    "first line, busy program": Measure(speeds.busy_first_lines),
    "no-ops": Measure(speeds.noops, (*STOPPING, Dask.name)),
    "map": Measure(speeds.maps),
    "bytes": Measure(speeds.large_bytes),
    "stream": Measure(speeds.streams),
    "cold": Measure(speeds.cold, (*ALL, SpawningLibrary.name), once=True),
    "recovery": Measure(warmth.recovers, STOPPING),
    "recovery, no spare": Measure(warmth.recovers_without_spare, (Killable.name,)),
    "memory": Measure(warmth.memory, (*ALL, Celery.name, Dask.name, Ray.name)),
}
