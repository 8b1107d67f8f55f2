"""What runs on the nodes of a Ray cluster of this machine: processes of jobs, and what they are below.

Runs in: the tests by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import Pending, until

GONE_S = 5.0
"""How long the processes of a node that is killed may take to go: one second is promised, and the machine is busy."""


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int]) -> Callable[[], bool | Pending]:
    """Return a condition: nothing of them is alive."""
    return lambda: Pending(left) if (left := alive(pids)) else True


def parents_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).parents()


def is_below(pid: int, root: int) -> bool:
    """Return whether a process is below another, by the guard that its worker is below."""
    try:
        return root in [parent.pid for parent in parents_of(pid)]
    except psutil.Error:
        return False


def actor_of(pid: int) -> psutil.Process:
    """Return the process of the node's supervisor, by that of a worker."""
    return next(each for each in parents_of(pid) if each.name().startswith("ray::"))


def raylet_of(pid: int) -> psutil.Process:
    return next(each for each in parents_of(pid) if each.name() == "raylet")


def address_of(cluster: RayCluster, pid: int) -> str:
    """Return the address of the node on which a worker is."""
    return next(address for address, started in cluster.nodes.items() if is_below(pid, started.pid))


def both_are_live(server: RayServer) -> bool | Pending:
    states = [node["state"] for node in server.nodes()]
    return states.count("live") >= 2 or Pending(states)


def state_of(server: RayServer, node: str) -> str:
    """Return the state of a node; empty where it is forgotten."""
    return next((str(each["state"]) for each in server.nodes() if each["name"] == node), "")


def lost_by_its_lease(server: RayServer, job_id: str) -> dict[str, Any]:
    """Wait for the end of a job whose node is lost; return its record. In time: its lease and some seconds more."""
    bound_s = 1.5 * server.lease_s + GONE_S
    record = until(lambda: _ended(server.record(job_id)), "the loss of its node is told", bound_s)
    assert (record["error"]["code"], record["error"]["fenced"]) == ("node_lost", "lease"), record["error"]
    return record


def _ended(record: dict[str, Any]) -> dict[str, Any] | Pending:
    return record if record["ended_at"] else Pending(record["state"])
