"""Whether any job can start, and what is degraded.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from killable.supervisor.records import NodeRecord, PoolRecord

STALL_S = 0.5
"""A longer turn of the event loop makes the server degraded: a kill was that late."""


def readiness(
    pools: Iterable[PoolRecord],
    *,
    queue_full: str,
    draining: bool,
    journal: str = "",
    longest_turn_s: float = 0.0,
    nodes: Iterable[NodeRecord] = (),
    cluster: str = "",
    not_reloaded: str = "",
    reasons: bool = False,
) -> tuple[bool, list[str]]:
    """Return whether some pool can start a job, and a text for everything that is degraded.

    The server is unready only when no job can start: an unready server gets no traffic, which would cut off its
    cancels and streams.

    `reasons`: also why a pool is as it is, which is the last line of a traceback and may quote confidential values.
    """
    degraded: list[str] = []
    able = False
    for pool in pools:
        why = f": {last_line}" if reasons and (last_line := pool.detail.rstrip().rpartition("\n")[2]) else ""
        if pool.state != "ready":
            degraded.append(f"pool {pool.name} is {pool.state}{why}")
        elif pool.starts_fail:
            degraded.append(f"pool {pool.name} starts no more workers{why}")
        if pool.quarantined:
            degraded.append(f"pool {pool.name}: {pool.quarantined} of {pool.workers_max} slots quarantined")
        able = able or (pool.state == "ready" and pool.quarantined < pool.workers_max)
    if cluster:  # no node is heard, each for this reason
        degraded.append(f"cluster: {cluster}")
    for node in () if cluster else nodes:
        if node.state not in ("live", "released"):
            degraded.append(f"node {node.name} is {node.state}")
        elif node.detail and node.state == "live":
            degraded.append(f"node {node.name}: {node.detail}")
    if not_reloaded:
        degraded.append(f"the code from before goes on: {not_reloaded}")
    if queue_full:
        degraded.append(f"the queue is full: {queue_full}")
    if journal:
        degraded.append(f"journal: {journal}")
    if longest_turn_s > STALL_S:
        degraded.append(f"the event loop stood still for {longest_turn_s:.1f} s")
    if draining:
        degraded.append("draining")
    return able and not draining, degraded
