"""The supervisor of `serve`: of this machine, or the head of a cluster that Ray connects.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.util import find_spec

from killable.supervisor.configuration.config import Config, ConfigError, ConfigFault
from killable.supervisor.linux import node_sockets, ray_settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry.observer import Observer

RAY_CARRIER = "killable.supervisor.cluster.ray_launcher:RayLauncher"


def supervisor_of(config: Config, environ: MutableMapping[str, str], observer: Observer | None = None) -> Supervisor:
    """Return the supervisor, not started. Raise ConfigError: no Ray here, or none with authentication."""
    cluster = config.cluster
    if not cluster.ray:
        return Supervisor(config.settings, observer=observer)
    source = config.sources.get("cluster.ray", "")
    if environ.get("RAY_AUTH_MODE") != "token" and not cluster.insecure:
        expected = "expected a Ray cluster with token authentication (RAY_AUTH_MODE=token), or cluster.insecure = true"
        raise ConfigError.of([ConfigFault("cluster.ray", expected, "RAY_AUTH_MODE is not token here", source)])
    if find_spec("ray") is None:
        expected = "expected Ray to be installed: pip install 'killable[ray]'"
        raise ConfigError.of([ConfigFault("cluster.ray", expected, "there is no module ray", source)])
    try:
        tls = node_sockets.tls(environ, listens=False)
    except (OSError, ValueError) as error:
        expected = "expected the files by which Ray encrypts its connections (RAY_USE_TLS)"
        raise ConfigError.of([ConfigFault("cluster.ray", expected, str(error), source)]) from error
    environ.setdefault(ray_settings.RECONNECT, str(ray_settings.NEVER_S))  # the driver inherits it
    from killable.supervisor.cluster.direct_carrier import DirectCarrier
    from killable.supervisor.cluster.driver_launcher import DriverLauncher
    from killable.supervisor.cluster.lease import Times
    from killable.supervisor.cluster.node_pools import NodePools
    from killable.supervisor.cluster.node_scaling import Scaling

    settings, times = config.settings, Times(cluster.lease_s, cluster.poll_s)
    arguments = (cluster.ray, settings, cluster.reserve_cpus)
    driver = DriverLauncher(RAY_CARRIER, arguments, silent_s=cluster.lease_s / 4)
    carrier = DirectCarrier(driver, tls=tls)
    pools = NodePools(
        settings, carrier, times, packs=cluster.packing == "fill", nodes=cluster.nodes,
        scaling=Scaling(cluster.autoscale_cpus_max, cluster.idle_s),
    )  # fmt: skip
    return Supervisor(settings, observer=observer, remote_pools=pools)
