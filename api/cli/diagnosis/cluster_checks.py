"""Checks of what Ray needs on this machine, if the configuration names a cluster. Imports nothing of Ray.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from killable.api.cli.diagnosis.check_result import Check
from killable.supervisor.http_server_settings import ClusterSettings
from killable.supervisor.linux import ray_settings


def examine_cluster(cluster: ClusterSettings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Yield a check of each of Ray's settings; none where there is no cluster."""
    if not cluster.ray:
        return
    try:
        yield Check("Ray", "ok", f"{version('ray')}: all machines need the same, and the same Python and killable")
    except PackageNotFoundError:
        yield Check("Ray", "fail", "it is not installed", "pip install 'killable[ray]'")
    yield _token(cluster, environ)
    yield _memory_monitor(environ)
    yield _guards(environ)
    yield _reachable(cluster.ray)


def _token(cluster: ClusterSettings, environ: Mapping[str, str]) -> Check:
    if environ.get("RAY_AUTH_MODE") == "token":
        return Check("Ray's token", "ok", "RAY_AUTH_MODE=token")
    advice = "without it whoever reaches Ray's ports runs anything on each machine: set RAY_AUTH_MODE=token everywhere"
    return Check("Ray's token", "warn" if cluster.insecure else "fail", "RAY_AUTH_MODE is not token here", advice)


def _memory_monitor(environ: Mapping[str, str]) -> Check:
    if not ray_settings.has_memory_monitor(environ):
        return Check("Ray's memory monitor", "ok", "off")
    advice = f"it ends a whole node for one greedy job: {ray_settings.MEMORY_MONITOR}=0 where `ray start` is called"
    return Check("Ray's memory monitor", "warn", "on, if `ray start` is called from here", advice)


def _guards(environ: Mapping[str, str]) -> Check:
    kills = ray_settings.kills_guards(environ)
    if not kills:
        return Check("Ray and guards", "ok", f"nodes are started with {ray_settings.KILLS_CHILDREN}=0")
    advice = f"its raylets would kill what ends the jobs of a lost node: unset {kills} where `ray start` is called"
    return Check("Ray and guards", "warn", f"{kills} is set here", advice)


def _reachable(address: str) -> Check:
    try:
        ray_settings.reach(address)
    except OSError as error:
        advice = "start it with `ray start --head`, or correct cluster.ray"
        return Check("Ray's head", "fail", f"{address}: {(error.strerror or str(error)).lower()}", advice)
    return Check("Ray's head", "ok", f"{address} answers" if ":" in address else f"{address}: Ray finds it itself")
