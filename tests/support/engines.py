"""The engine of a test: this machine, or with ENGINE=cluster a head over real nodes in the same event loop.

Runs in: the tests.
"""

from __future__ import annotations

import dataclasses
import os

from support.in_process_carrier import InProcessCarrier

from killable.supervisor.cluster.node_link import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor

NODES = tuple(os.environ.get("NODES", "a").split(","))


def new_supervisor(settings: Settings) -> Supervisor:
    if os.environ.get("ENGINE") != "cluster":
        return Supervisor(settings)
    carrier = InProcessCarrier(dataclasses.replace(settings, sweep=False), NODES)
    return Supervisor(settings, remote_pools=NodePools(settings, carrier, Times()))
