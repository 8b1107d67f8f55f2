"""The state of a server's parts as families of metrics: its pools, queue, journal, disks, and what program it is.

Runs in: supervisor. `metrics_exposition` has what is counted of jobs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from killable.supervisor.records import REPLACED
from killable.supervisor.telemetry.gauges import Gauges

POOL_STATES = ("starting", "ready", "broken", "restarting")


def families(gauges: Gauges) -> Iterator[Metric]:
    """Yield the families."""
    yield _build_info()
    queued = GaugeMetricFamily("killable_queued_jobs", "Jobs waiting for a worker, by type", labels=["type"])
    for name, number in sorted(gauges.queued.items()):
        queued.add_metric([name], number)
    yield queued
    text = "Time for which the job has waited that waits longest"
    yield GaugeMetricFamily("killable_queue_age_seconds", text, gauges.queue_age_s)
    yield from _pools(gauges)
    if gauges.journal is not None:
        text = "Whether the journal cannot be written: then nothing is accepted"
        yield GaugeMetricFamily("killable_journal_failing", text, float(bool(gauges.journal)))
    yield from _disks(gauges)


def _build_info() -> Metric:
    labels = {"version": version("killable"), "python": platform.python_version()}
    family = GaugeMetricFamily("killable_build_info", "Always 1: which program it is", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _pools(gauges: Gauges) -> Iterator[Metric]:
    state = GaugeMetricFamily("killable_pool_state", "1: the pool is in this state", labels=["pool", "state"])
    workers = GaugeMetricFamily(
        "killable_pool_workers", "Workers of the pool: busy, idle, quarantined", labels=["pool", "state"]
    )
    replaced = CounterMetricFamily(
        "killable_workers_replaced", "Workers that have ended, by pool and why", labels=["pool", "cause"]
    )
    most = GaugeMetricFamily("killable_pool_workers_max", "Workers that may be busy at once", labels=["pool"])
    for pool in gauges.pools:
        for name in POOL_STATES:
            state.add_metric([pool.name, name], float(pool.state == name))
        for name in ("busy", "idle", "quarantined"):
            workers.add_metric([pool.name, name], getattr(pool, name))
        for why in REPLACED:
            replaced.add_metric([pool.name, why], pool.replaced.get(why, 0))
        most.add_metric([pool.name], pool.workers_max)
    yield state
    yield workers
    yield most
    yield replaced


def _disks(gauges: Gauges) -> Iterator[Metric]:
    free = GaugeMetricFamily(
        "killable_disk_free_bytes", "Free bytes of the disk that has the journal, or files", labels=["of"]
    )
    size = GaugeMetricFamily("killable_disk_size_bytes", "All bytes of it", labels=["of"])
    for name, (free_bytes, size_bytes) in gauges.disks.items():
        free.add_metric([name], free_bytes)
        size.add_metric([name], size_bytes)
    yield free
    yield size
