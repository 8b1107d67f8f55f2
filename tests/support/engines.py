"""The supervisor of a test: of this machine, or the head of a cluster whose nodes are in the same event loop.

Runs in: the tests. With ENGINE=cluster the tests of `api/`, `process/` and `sim/` run with a head; NODES has the names
of its nodes. Together they have the slots that a test asks for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

from support.in_process_carrier import Faults, InProcessCarrier
from support.waiting import Pending, until_async

from killable.supervisor.clock import Clock
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.cluster.node_scaling import FIXED, Scaling
from killable.supervisor.jobs.node_labels import NODE
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import JobRecord, PoolRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused

ENGINE = os.environ.get("ENGINE", "local")
LASTING = Times(lease_s=600.0, poll_s=3.0, patience_s=60.0)
"""No node is lost, however slow the machine is."""
RETURNING = Times(lease_s=10.0, poll_s=2.0, patience_s=6.0)
"""Of heads with a journal. Here nodes end with their head, and the next one waits until their lease is over."""
LOST = "node_lost" if ENGINE == "cluster" else "supervisor_lost"
"""The code of what ran when a server died, and is not taken over by the next one."""
OF_ONE_MACHINE = frozenset(
    {
        "test_fork_failures.py", "test_inputs.py", "test_quarantine.py", "test_silent_processes.py", "test_traced.py",
        "test_zygotes.py", "test_every_way_to_end_gives_everything_back",
        "test_five_deaths_by_sigkill_have_five_codes", "test_memory_of_a_lost_zygote_is_removed",
        "test_a_thousand_jobs_leave_what_is_to_be_kept", "test_hundreds_of_jobs_at_once_each_get_their_own_result",
        "test_the_kernel_ends_what_nobody_looks_at_and_a_signal_alone_proves_nothing",
        "test_a_zygote_that_dies_takes_its_jobs_and_the_queue_goes_on",
    }
)  # fmt: skip
"""Files, and tests of others, that look at the zygote of a pool, at its workers and spares, or at two jobs of one
machine: their pools are on one node, however many there are.
"""
IN_CERTIFICATES = frozenset({"node", "relayed"} if ENGINE == "cluster" else ())
"""Members of each certificate that only those of nodes have."""
NODES = tuple(os.environ.get("NODES", "a").split(","))


def new_supervisor(
    settings: Settings, *, open_spawner: SpawnerFactory | None = None, engine: str = ENGINE, **parts: Any
) -> Supervisor:
    """Return the supervisor that ENGINE names. `parts` are those of a supervisor, `open_spawner` one of its nodes."""
    if engine == "cluster":
        times = RETURNING if settings.journal and open_spawner is None else LASTING
        return Cluster(NODES, times, open_spawner=open_spawner).head(spread(settings, NODES), **parts)
    return Supervisor(settings, open_spawner=open_spawner, **parts)


def spread(settings: Settings, nodes: Sequence[str]) -> Settings:
    """Return settings by which all nodes together have the slots of each pool. One whose slots cannot be divided is on
    one of the nodes, each such pool on another; and so is each pool of tests about one machine.
    """
    where = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].partition("::")
    file, name = where[0].rpartition("/")[2], where[2].partition("[")[0]
    if len(nodes) > 1 and {file, name} & OF_ONE_MACHINE:
        return replace(settings, pools=tuple(_on_one(spec, nodes[0]) for spec in settings.pools))
    turns = cycle(nodes)
    return replace(settings, pools=tuple(_spread(spec, len(nodes), turns) for spec in settings.pools))


def _on_one(spec: PoolSpec, node: str) -> PoolSpec:
    return spec if spec.nodes else spec._replace(nodes={NODE: node})


def _spread(spec: PoolSpec, nodes: int, turns: Iterator[str]) -> PoolSpec:
    if nodes == 1 or spec.nodes:
        return spec
    if spec.workers % nodes:
        return _on_one(spec, next(turns))
    return spec._replace(workers=spec.workers // nodes, spares=-(-spec.spares // nodes))


def with_workers(server: Supervisor) -> Sequence[Supervisor]:
    """Return the supervisors whose the workers are: that of this machine, or those of a head's nodes."""
    pools = server._fleet
    return [host._supervisor for host in pools._carrier.hosts.values()] if isinstance(pools, NodePools) else [server]


async def until_warm(server: Supervisor) -> None:
    """Wait until every pool with spares has had a ready worker: on each node, while a head waits for one of them."""
    for each in with_workers(server):
        await each.until_warm()


async def pool_with_workers(server: Supervisor, name: str) -> PoolRecord:
    """Return the record of a pool where its workers are. A head is told no zygote's pid, and how many slots are free,
    not how many workers are warm.
    """
    (record,) = [record for each in with_workers(server) for record in await each.pools() if record.name == name]
    return record


def number_of(worker_id: str) -> str:
    """Return the id that a worker has on its machine."""
    return worker_id.rpartition(".")[2]


async def pid_of(server: Supervisor, job_id: str) -> int:
    """Return the pid of a job that has a worker. A head knows it when the node has told it, a supervisor at once."""

    async def known() -> int | Pending:
        record = await server.get(job_id)
        assert record.pid is not None or with_workers(server) != [server], record
        return record.pid or Pending(record)

    return await until_async(known, "the pid of a job is known")


async def record_with_workers(server: Supervisor, job_id: str) -> JobRecord:
    """Return the record of a job where its worker is, or will be, when it is there. For a head it runs as soon as it
    has a slot of a node, and the phases of its ending come with its end.
    """

    async def there() -> JobRecord | Pending:
        for each in with_workers(server):
            with suppress(Refused):
                return await each.get(job_id)
        return Pending(await server.get(job_id))

    return await until_async(there, "a job has come to its node")


async def certificate_so_far(server: Supervisor, job_id: str) -> dict[str, Any]:
    """Return the phases of an ending while it goes on."""
    return (await record_with_workers(server, job_id)).certificate or {}


@dataclass
class Cluster:
    """A head over real nodes, each with a supervisor of its own."""

    names: tuple[str, ...]
    times: Times
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """By node; others have none."""
    nodes: dict[str, str] = field(default_factory=dict)
    """`[cluster] nodes`."""
    scaling: Scaling = FIXED
    open_spawner: SpawnerFactory | None = None
    """What the nodes start in place of processes."""

    def head(self, settings: Settings, *, clock: Clock | None = None, **parts: Any) -> Supervisor:
        """Return the head, which starts its nodes. It can be given to `api_server.serve` in place of a supervisor.

        With a `clock` this is the nodes', too, and that of their leases. `parts` are those of a supervisor.
        """
        self.carrier = InProcessCarrier(settings, self.names, self.seed, self.faults, open_spawner=self.open_spawner)
        if clock is not None:
            self.carrier.boottime = clock.now
        self.carrier.labels = self.labels
        pools = NodePools(settings, self.carrier, self.times, nodes=self.nodes, scaling=self.scaling)
        return Supervisor(settings, remote_pools=pools, clock=clock, **parts)
