"""The metrics as Prometheus or OpenMetrics text, and as one JSON document.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from killable.supervisor.models import TERMINAL_STATES
from killable.supervisor.records import NODE_STATES, REPLACED, NodeRecord
from killable.supervisor.telemetry import server_families
from killable.supervisor.telemetry.gauges import ClusterGauges, FileGauges, Gauges
from killable.supervisor.telemetry.metrics import ACCEPTED, REPLAYED, Metrics

MS = 0.001
_OF_A_NODE: tuple[tuple[str, str, Callable[[NodeRecord], float | None]], ...] = (
    ("up", "Whether the node answers", lambda node: node.state in ("live", "draining")),
    ("slots", "Jobs that the node runs at once", lambda node: node.slots),
    ("running", "Jobs that the node has", lambda node: node.running),
    ("heard_seconds", "Time since the node was heard of; its lease runs from then", lambda node: node.heard_s),
    ("delay_seconds", "Time until the node has answered the last order", lambda node: node.delay_s),
)


def as_text(families: Iterable[Metric], *, openmetrics: bool) -> bytes:
    """Return families as text."""
    encode, _ = choose_encoder("application/openmetrics-text" if openmetrics else "text/plain")
    return encode(_Families(families if openmetrics else map(_without_created, families)))


def families_of(metrics: Metrics, gauges: Gauges, rss_bytes: int) -> list[Metric]:
    """Return one scrape. `rss_bytes` is the resident memory of all workers."""
    return list(_Scrape(metrics, gauges, rss_bytes).collect())


def as_json(metrics: Metrics, gauges: Gauges, uptime_s: float) -> dict[str, Any]:
    """Return the document that `GET /v1/metrics` answers with."""
    outcomes = {f"jobs_{state}": _sum(metrics.jobs, 1, state) for state in TERMINAL_STATES}
    signals = ("SIGTERM", "SIGKILL")
    refused = {code: n for code, n in metrics.submissions.items() if code not in (ACCEPTED, REPLAYED)}
    return {
        **outcomes,
        **gauges.jobs,
        "accepted": metrics.submissions[ACCEPTED],
        "replayed": metrics.submissions[REPLAYED],
        "refused": refused,
        "cancel_ms": metrics.cancel.percentiles(MS),
        "queue_wait_ms": metrics.queue_wait.percentiles(MS),
        "start_ms": metrics.start.percentiles(MS),
        "first_token_ms": metrics.first_token.percentiles(MS),
        "recovery_ms": metrics.recovery.percentiles(MS),
        "run_s": {type: window.percentiles(1) for type, window in sorted(metrics.run.items())},
        "timeouts": dict(metrics.timeouts),
        "retries": dict(metrics.retries),
        "unproven": metrics.unproven,
        "stops": {code: _sum(metrics.stops, 0, code) for code in sorted({code for code, _ in metrics.stops})},
        "kills": {signal: _sum(metrics.kills, 1, signal) for signal in signals},
        "workers": gauges.workers,
        "spares": gauges.spares,
        "queue_bytes": gauges.queue_bytes,
        "tokens": metrics.tokens + gauges.live_tokens,
        "tokens_saved": metrics.tokens_saved,
        "sse_clients": gauges.sse_clients,
        "zygote_restarts": gauges.zygote_restarts,
        "workers_replaced": {why: sum(pool.replaced.get(why, 0) for pool in gauges.pools) for why in REPLACED},
        "loop_lag_ms": round(gauges.loop_lag_s / MS, 3),
        "loop_longest_ms": round(gauges.loop_longest_s / MS, 3),
        "uptime_s": round(uptime_s, 3),
        **({} if gauges.files is None else _files_as_json(gauges.files)),
    } | ({} if gauges.cluster is None else _cluster_as_json(gauges.cluster))


def _files_as_json(files: FileGauges) -> dict[str, Any]:
    return {
        "files": files.number,
        "files_bytes": files.size,
        "files_received_bytes": files.received_bytes,
        "files_sent_bytes": files.sent_bytes,
    }


def _cluster_as_json(cluster: ClusterGauges) -> dict[str, Any]:
    counts = {state: sum(node.state == state for node in cluster.nodes) for state in NODE_STATES}
    return {"nodes": counts, "nodes_lost": cluster.nodes_lost, "cpus_requested": cluster.cpus_requested}


def _sum(counts: Mapping[tuple[str, ...], int], place: int, label: str) -> int:
    return sum(number for labels, number in counts.items() if labels[place] == label)


class _Scrape:
    """A collector for one scrape: the counters, then the gauges and histograms."""

    def __init__(self, metrics: Metrics, gauges: Gauges, rss_bytes: int) -> None:
        self._metrics, self._gauges, self._rss_bytes = metrics, gauges, rss_bytes

    def collect(self) -> Iterator[Metric]:
        metrics, gauges = self._metrics, self._gauges
        yield _counter("jobs", "Ended jobs, by type and outcome", metrics.jobs, "type", "outcome")
        yield _counter("endings", "Ended jobs, by type and the code of their end", metrics.endings, "type", "code")
        yield _counter("submissions", "Submissions, by result: accepted, replayed, or the code of the refusal",
                       _single(metrics.submissions), "result")  # fmt: skip
        yield _counter("stops", "Stopped jobs, by cause and by requester", metrics.stops, "cause", "by")
        yield _counter("kills", "Signals sent to end attempts, by cause and signal", metrics.kills, "cause", "signal")
        yield _counter("retries", "Retried attempts, by the code of their error",
                       _single(metrics.retries), "code")  # fmt: skip
        yield _counter("unproven", "Ended attempts of which it is not proven that no process is left",
                       {(): metrics.unproven})  # fmt: skip
        yield _counter("timeouts", "Jobs that a deadline ended, by kind of deadline", _single(metrics.timeouts), "kind")
        yield _counter("tokens", "Tokens emitted", {(): metrics.tokens + gauges.live_tokens})
        yield _counter("tokens_saved", "Tokens that stopped jobs had announced and did not emit",
                       {(): metrics.tokens_saved})  # fmt: skip
        yield _counter("idempotency_keys_forgotten", "Idempotency keys forgotten early, at a tenant's bound",
                       {(): metrics.keys_forgotten})  # fmt: skip
        yield _counter("zygote_restarts", "Restarts of zygotes that died", {(): gauges.zygote_restarts})
        yield _gauge("queue_depth", "Jobs waiting for a worker", gauges.queue_depth)
        yield _gauge("queue_bytes", "Input of the jobs waiting for a worker, in bytes", gauges.queue_bytes)
        yield from _of_tenants(gauges)
        workers = GaugeMetricFamily("killable_workers", "Worker processes", labels=["state"])
        for state, number in gauges.workers.items():
            workers.add_metric([state], number)
        yield workers
        yield _gauge("spares", "Warm, idle workers", gauges.spares)
        yield _gauge("worker_rss_bytes", "Resident memory of all workers; shared pages count in each",
                     self._rss_bytes)  # fmt: skip
        yield _gauge("sse_clients", "Open streams", gauges.sse_clients)
        yield _gauge(
            "loop_lag_seconds", "Duration of one iteration of the supervisor's event loop, now", gauges.loop_lag_s
        )
        yield _gauge(
            "loop_longest_seconds", "Longest iteration of that loop in the last minute or two", gauges.loop_longest_s
        )
        if gauges.files is not None:
            yield from _of_files(gauges.files)
        if gauges.cluster is not None:
            yield from _of_cluster(gauges.cluster)
        yield from server_families.families(gauges)
        yield from metrics.registry.collect()


def _of_tenants(gauges: Gauges) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "killable_tenant_jobs", "Jobs of the tenants that have the most, by state: queued, running, kept",
        labels=["tenant", "state"],
    )  # fmt: skip
    streams = GaugeMetricFamily("killable_tenant_streams", "Open streams of these tenants", labels=["tenant"])
    for tenant in gauges.tenants:
        for state in ("queued", "running", "kept"):
            jobs.add_metric([tenant.tenant, state], getattr(tenant, state))
        streams.add_metric([tenant.tenant], tenant.streams)
    yield jobs
    yield streams


def _of_files(files: FileGauges) -> Iterator[Metric]:
    yield _gauge("files", "Uploaded files that are there", files.number)
    yield _gauge("files_bytes", "Their size", files.size)
    yield _counter("files_received_bytes", "Bytes of uploads, also of those that failed", {(): files.received_bytes})
    yield _counter("files_sent_bytes", "Bytes of files that were downloaded", {(): files.sent_bytes})


def _of_cluster(cluster: ClusterGauges) -> Iterator[Metric]:
    states = GaugeMetricFamily("killable_nodes", "Machines of the cluster", labels=["state"])
    for state in NODE_STATES:
        states.add_metric([state], sum(node.state == state for node in cluster.nodes))
    yield states
    yield _counter("nodes_lost", "Nodes whose lease was over, or that have ended", {(): cluster.nodes_lost})
    yield _gauge("cpus_requested", "Processors that Ray's autoscaler was asked for last", cluster.cpus_requested)
    for name, text, value_of in _OF_A_NODE:
        family = GaugeMetricFamily(f"killable_node_{name}", text, labels=["node"])
        for node in cluster.nodes:
            value = value_of(node)
            if value is not None:
                family.add_metric([node.name], value)
        yield family


class _Families:
    """A collector of these families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _without_created(family: Metric) -> Metric:
    """Drop the creation times: in the older text format each would be a metric of its own."""
    family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return family


def _single(counts: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(label,): number for label, number in counts.items()}


def _counter(name: str, text: str, counts: Mapping[tuple[str, ...], int], *labels: str) -> Metric:
    family = CounterMetricFamily(f"killable_{name}", text, labels=labels)
    for values, number in counts.items():
        family.add_metric(values, number)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"killable_{name}", text, value)
