"""The supervisor of a test: of this machine, or the head of a cluster whose nodes are in the same event loop.

Runs in: the tests. With ENGINE=cluster the tests of `api/`, `process/` and `sim/` run with a head; NODES has the names
of its nodes.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

from support.in_process_carrier import Faults, InProcessCarrier

from killable.supervisor.clock import Clock
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import FIXED, NodePools
from killable.supervisor.cluster.node_scaling import Scaling
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor

ENGINE = os.environ.get("ENGINE", "local")
LASTING = Times(lease_s=600.0, poll_s=3.0, patience_s=60.0)
"""No node is lost, however slow the machine is."""
DIFFERS = {
    "test_trailers_without_end_are_cut_off[one trailer that does not end]": (
        "client and server share a loop: what the kernel holds is sent before the server has had its turn"
    ),
    "test_a_pool_whose_zygote_cannot_be_started_again_tries_until_it_can": (
        "how a pool is, its node tells with its next answer; here it is looked at in the same moment"
    ),
    "test_no_worker_is_used_before_its_pidfd_is_here": (
        "a job has its slot at once, and its worker and pid when its node has told them"
    ),
    "test_a_worker_that_dies_while_it_is_kept_for_a_job_costs_only_the_wait": (
        "a head keeps a slot for the job; its node has another worker for it when it comes"
    ),
    "test_the_certificate_tells_who_asked_what_happened_and_when": (
        "it names every member of a certificate, and one of a node has two more: `node`, `relayed`"
    ),
    "test_a_worker_that_does_not_read_its_input_is_killed_and_holds_up_nobody": (
        "it asks for the pid of a job that has begun in this moment; a head knows it when the node has told it"
    ),
    "test_a_worker_that_is_killed_between_the_order_and_its_reading": "the same",
    "test_a_queued_input_lies_in_one_memory_file_and_goes_with_its_job": "the same",
    "test_the_kernel_ends_what_nobody_looks_at_and_a_signal_alone_proves_nothing": "the same",
    "test_a_worker_is_used_again_only_as_it_was": "why workers were retired, their node knows",
    "test_five_deaths_by_sigkill_have_five_codes": "it kills a zygote by the pid that is told; a head knows none",
    "test_a_flood_of_large_jobs_leaves_bounded_bytes_and_time_takes_the_rest": (
        "it ends with the absence of timers, and a head that polls its nodes always has some"
    ),
    "test_a_wait_tells_an_end_when_it_is_on_disk_a_record_soon_and_a_cancel_at_once": (
        "it compares times to a few milliseconds, and an order takes some of them to its node"
    ),
}
"""Tests, with or without their parameters, that say nothing about a head in the test's own process, and why. They are
skipped there.
"""
NODES = tuple(os.environ.get("NODES", "a").split(","))


def new_supervisor(
    settings: Settings, *, open_spawner: SpawnerFactory | None = None, engine: str = ENGINE, **parts: Any
) -> Supervisor:
    """Return the supervisor that ENGINE names. `parts` are those of a supervisor, `open_spawner` one of its nodes."""
    if engine == "cluster":
        return Cluster(NODES, LASTING, open_spawner=open_spawner).head(settings, **parts)
    return Supervisor(settings, open_spawner=open_spawner, **parts)


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
        of_nodes = dataclasses.replace(settings, sweep=False)
        self.carrier = InProcessCarrier(of_nodes, self.names, self.seed, self.faults, open_spawner=self.open_spawner)
        if clock is not None:
            self.carrier.boottime = clock.now
        self.carrier.labels = self.labels
        pools = NodePools(settings, self.carrier, self.times, nodes=self.nodes, scaling=self.scaling)
        return Supervisor(settings, remote_pools=pools, clock=clock, **parts)
