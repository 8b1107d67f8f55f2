"""The supervisor of a test: of this machine, or the head of a cluster whose nodes are in the same event loop.

Runs in: the tests. With ENGINE=cluster the tests of `api/` run with a head; NODES has the names of its nodes.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

from support.in_process_carrier import Faults, InProcessCarrier

from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import FIXED, NodePools
from killable.supervisor.cluster.node_scaling import Scaling
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor

ENGINE = os.environ.get("ENGINE", "local")
DIFFERS = {
    "test_trailers_without_end_are_cut_off[one trailer that does not end]": (
        "client and server share a loop: what the kernel holds is sent before the server has had its turn"
    ),
}
"""Tests of `api/` that say nothing about a head in the test's own process, and why. They are skipped there."""
NODES = tuple(os.environ.get("NODES", "a").split(","))


def new_supervisor(settings: Settings) -> Supervisor:
    """Return the supervisor that ENGINE names."""
    return Cluster(NODES, Times()).head(settings) if ENGINE == "cluster" else Supervisor(settings)


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

    def head(self, settings: Settings) -> Supervisor:
        """Return the head, which starts its nodes. It can be given to `api_server.serve` in place of a supervisor."""
        of_nodes = dataclasses.replace(settings, sweep=False)
        self.carrier = InProcessCarrier(of_nodes, self.names, self.seed, self.faults)
        self.carrier.labels = self.labels
        pools = NodePools(settings, self.carrier, self.times, nodes=self.nodes, scaling=self.scaling)
        return Supervisor(settings, remote_pools=pools)
