"""All measures: the function of each, and the peers that it is run for.

Runs in: a trial. A measure is a function that takes a Trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from executor.memory_measures import measure_globals, measure_memory, measure_pool_memory
from executor.peers import LIBRARIES, Killable, Peer, StdlibSpawnPool
from executor.recovery_measures import measure_recovery
from executor.speed_measures import (
    measure_busy_first_lines,
    measure_bytes,
    measure_cold_start,
    measure_first_lines,
    measure_idle_first_lines,
    measure_map,
    measure_noops,
    measure_streams,
)
from executor.stopping_measures import (
    CANCELS,
    measure_after_kill,
    measure_cancels,
    measure_children,
    measure_deadline,
    measure_error_types,
    measure_graces,
    measure_owner_death,
)
from executor.task_systems import SYSTEMS, Celery, Dask, Ray, Rq
from executor.watched_pool import Trial

ALL: tuple[type[Peer], ...] = (*LIBRARIES, *SYSTEMS)
STOPPING: tuple[type[Peer], ...] = (*LIBRARIES, Celery, Rq, Ray)
"""Those that can go on after the death of a worker without a repeat of its job."""
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*LIBRARIES, StdlibSpawnPool, *SYSTEMS)}


@dataclass(frozen=True, slots=True)
class Measure:
    """A function to run, and the peers it is run for."""

    run: Callable[[Trial], None]
    peers: tuple[type[Peer], ...] = LIBRARIES
    is_repeated: bool = False
    """Run it in several programs, in turns with those of the other peers: each yields one value, or all of its values
    depend on the state of the machine in its second.
    """


MEASURES: dict[str, Measure] = {
    **{
        f"cancel {workload}": Measure(partial(measure_cancels, workload), LIBRARIES if cancel.is_large else ALL)
        for workload, cancel in CANCELS.items()
    },
    "timeout": Measure(measure_deadline, ALL),
    "after a kill": Measure(measure_after_kill),
    "grace": Measure(measure_graces, ALL),
    "children": Measure(measure_children, ALL),
    "owner": Measure(measure_owner_death, ALL),
    "types": Measure(measure_error_types, STOPPING),
    "first line": Measure(measure_first_lines, ALL, is_repeated=True),
    "first line, idle program": Measure(measure_idle_first_lines),
    "first line, busy program": Measure(measure_busy_first_lines),
    "no-ops": Measure(measure_noops, ALL),
    "map": Measure(measure_map),
    "bytes": Measure(measure_bytes),
    "globals": Measure(measure_globals, is_repeated=True),
    "stream": Measure(measure_streams),
    "cold": Measure(measure_cold_start, (*LIBRARIES, StdlibSpawnPool), is_repeated=True),
    "recovery": Measure(partial(measure_recovery, spares=1), STOPPING),
    "recovery, no spare": Measure(partial(measure_recovery, spares=0), (Killable,)),
    "memory": Measure(measure_memory, (*LIBRARIES, Celery, Dask, Ray)),
    "memory of a pool": Measure(measure_pool_memory),
}
