"""The supervisor of `serve`: of this machine, or the head of a cluster that Ray connects.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from killable.supervisor.configuration.config import Config, ConfigError, ConfigFault
from killable.supervisor.supervisor import Supervisor

GCS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s", "86400"
"""Else Ray aborts this process when its head has not answered for a minute."""


def supervisor_of(config: Config, environ: MutableMapping[str, str]) -> Supervisor:
    """Return the supervisor, not started. Raise ConfigError: no Ray here, or none with authentication."""
    cluster = config.cluster
    if not cluster.ray:
        return Supervisor(config.settings)
    source = config.sources.get("cluster.ray", "")
    if environ.get("RAY_AUTH_MODE") != "token" and not cluster.insecure:
        expected = "expected a Ray cluster with token authentication (RAY_AUTH_MODE=token), or cluster.insecure = true"
        raise ConfigError.of([ConfigFault("cluster.ray", expected, "RAY_AUTH_MODE is not token here", source)])
    environ.setdefault(*GCS_PATIENCE)  # before it is imported
    try:
        from killable.supervisor.cluster.ray_carrier import RayCarrier
    except ImportError as error:
        expected = "expected Ray to be installed: pip install 'killable[ray]'"
        raise ConfigError.of([ConfigFault("cluster.ray", expected, str(error), source)]) from error
    from killable.supervisor.cluster.lease import Times
    from killable.supervisor.cluster.node_pools import NodePools

    settings, times = config.settings, Times(cluster.lease_s, cluster.poll_s)
    carrier, packs = RayCarrier(cluster.ray, settings), cluster.packing == "fill"
    pools = NodePools(settings, carrier, times, packs=packs, nodes=cluster.nodes)
    return Supervisor(settings, remote_pools=pools)
