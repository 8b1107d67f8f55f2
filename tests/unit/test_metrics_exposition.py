"""The metrics as text and as JSON."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from killable.supervisor.models import Outcome, Verdict
from killable.supervisor.records import NODE_STATES, NodeRecord, PoolRecord, TenantRecord
from killable.supervisor.telemetry import metrics_exposition
from killable.supervisor.telemetry.gauges import WORKER_STATES, ClusterGauges, Gauges
from killable.supervisor.telemetry.metrics import Metrics

HTTP_MD = """
jobs_total{type,outcome} · job_duration_seconds · queue_depth · queue_bytes · queue_wait_seconds · start_seconds ·
first_token_seconds · cancel_seconds{phase} · kills_total{cause,signal} · timeouts_total{kind} · workers{state} ·
spares · worker_rss_bytes · tokens_total · recovery_seconds · sse_clients · loop_lag_seconds ·
loop_longest_seconds · zygote_restarts_total
"""
"""The last section of the HTTP contract, word for word."""
BY_TYPE = {"job_duration_seconds", "queue_wait_seconds", "start_seconds", "first_token_seconds"}
"""Histograms that a limit of a type is set from."""
MORE = {
    "submissions_total": {"result"}, "stops_total": {"cause", "by"}, "tokens_saved_total": set(),
    "retries_total": {"code"}, "unproven_total": set(), "tenant_jobs": {"tenant", "state"},
    "tenant_streams": {"tenant"}, "idempotency_keys_forgotten_total": set(),
    "endings_total": {"type", "code"}, "kill_seconds": set(), "queued_jobs": {"type"}, "queue_age_seconds": set(),
    "pool_state": {"pool", "state"}, "pool_workers": {"pool", "state"}, "pool_workers_max": {"pool"},
    "workers_replaced_total": {"pool", "cause"}, "journal_failing": set(),
    "disk_free_bytes": {"of"}, "disk_size_bytes": {"of"},
    "build_info": {"version", "python"},
}  # fmt: skip
"""Rows F3, F4 and D23, and what an operator is to be woken by."""
PROCESS = {"virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds", "cpu_seconds_total", "open_fds",
           "max_fds"}  # fmt: skip
GEN_AI = {"server_request_duration_seconds", "server_time_to_first_token_seconds",
          "server_time_per_output_token_seconds", "client_token_usage"}  # fmt: skip
CONVENTIONS = {f"process_{name}" for name in PROCESS} | {f"gen_ai_{name}" for name in GEN_AI}
"""The names of others: of Prometheus' own library, and of OpenTelemetry."""
POOL = PoolRecord("main", "ready", "fork", 2, 1, 2, 1, 0, None, 1, "descendants")
GAUGES = Gauges(
    queue_depth=3, queue_bytes=99, jobs={"queued": 3, "running": 1, "stopping": 0},
    workers=dict.fromkeys(WORKER_STATES, 0) | {"idle": 2, "busy": 1},
    tenants=[TenantRecord("ann", 3, 99, 1, 7, 700, 2, 0, {})],
    live_tokens=5, zygote_restarts=1, sse_clients=4, loop_lag_s=0.002, loop_longest_s=0.5,
    queued={"work": 3}, queue_age_s=1.5, pools=[POOL], journal="", disks={"journal": (1, 2)},
)  # fmt: skip


NODES = (
    NodeRecord("gpu-1", "live", "i", 4, 2, 0.5, delay_s=0.002),
    NodeRecord("gpu-2", "lost", "i", 0, 0, 30.0),
)


def contract() -> dict[str, set[str]]:
    """Return the labels by name that the contract and the rows ask for."""
    names = re.findall(r"(\w+)(?:\{([\w,]+)\})?", HTTP_MD)
    listed = {name: set(labels.split(",")) if labels else set() for name, labels in names}
    return listed | {name: {"type"} for name in BY_TYPE} | MORE


def used() -> Metrics:
    metrics = Metrics()
    metrics.on_types(["work"])
    metrics.on_submitted()
    metrics.on_left_queue("work", 0.1)
    metrics.on_entered("work", 0.1)
    metrics.on_first_token("work", 0.1)
    phases = {"term_sent": 0.1, "acknowledged": 0.4, "kill_sent": 1.0, "exited": 1.2, "tree_empty": 2.0}
    verdict = Verdict("cancelled", by="user", reason="no more")
    metrics.on_ended("work", Outcome("cancelled", "cancelled"), verdict, phases, ran_s=1.0, tokens=7, tokens_left=3)
    metrics.on_ended("work", Outcome("completed"), None, {}, ran_s=1.0, tokens=0)
    metrics.on_recovered(0.02, "default")
    return metrics


def text(*, openmetrics: bool = False) -> str:
    families = metrics_exposition.families_of(used(), GAUGES, 1 << 20)
    return metrics_exposition.as_text(families, openmetrics=openmetrics).decode()


def samples(exposed: str) -> dict[str, list[Sample]]:
    """Return the samples by the name that the contract gives to them."""
    found: dict[str, list[Sample]] = {}
    for family in parse_text(exposed):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name.removeprefix("killable_")] = family.samples
    return found


@pytest.mark.row("F2")
def test_the_text_has_exactly_the_names_and_labels_of_the_contract() -> None:
    prefixes = ("killable_", "process_")
    assert all(name.startswith(prefixes) for name in re.findall(r"^(\w+)", text(), re.MULTILINE))
    labels = {
        name: {label for sample in found for label in sample.labels} - {"le"}
        for name, found in samples(text()).items()
        if name not in CONVENTIONS
    }
    assert labels == contract()


@pytest.mark.row("F2")
def test_openmetrics_says_the_same_and_ends_as_it_must() -> None:
    exposed = text(openmetrics=True)
    assert exposed.endswith("# EOF\n")
    names = {f.name + ("_total" if f.type == "counter" else "") for f in parse_openmetrics(exposed)}
    assert {name.removeprefix("killable_") for name in names} == set(contract()) | CONVENTIONS


def test_the_moment_of_creation_is_no_metric_of_its_own() -> None:
    assert "_created" not in text() and "_created" in text(openmetrics=True)


@pytest.mark.row("F3")
def test_gauges_are_those_of_the_moment_and_live_tokens_count() -> None:
    found = {name: each[0].value for name, each in samples(text()).items() if each and not each[0].labels}
    assert found["queue_depth"] == 3 and found["queue_bytes"] == 99 and found["sse_clients"] == 4
    assert found["tokens_total"] == 12 and found["tokens_saved_total"] == 3 and found["zygote_restarts_total"] == 1
    assert found["loop_longest_seconds"] == 0.5
    assert found["spares"] == 2 and found["worker_rss_bytes"] == 1 << 20 and found["loop_lag_seconds"] == 0.002
    states = {sample.labels["state"]: sample.value for sample in samples(text())["workers"]}
    assert states == GAUGES.workers


@pytest.mark.row("A14", "F4")
def test_the_json_has_every_count_and_percentile() -> None:
    told = metrics_exposition.as_json(used(), GAUGES, uptime_s=12.3456)
    assert [told[f"jobs_{state}"] for state in ("completed", "failed", "cancelled", "timed_out")] == [1, 0, 1, 0]
    assert told["cancel_ms"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert told["run_s"] == {"work": {"p50": 1.0, "p95": 1.0, "p99": 1.0}}
    assert told["kills"] == {"SIGTERM": 1, "SIGKILL": 1} and told["stops"] == {"cancelled": 1}
    assert (told["queued"], told["running"], told["stopping"], told["tokens"]) == (3, 1, 0, 12)
    assert (told["accepted"], told["refused"], told["uptime_s"], told["loop_lag_ms"]) == (1, {}, 12.346, 2.0)


def test_before_anything_has_happened_counts_are_nought_and_percentiles_null() -> None:
    told = metrics_exposition.as_json(Metrics(), GAUGES, uptime_s=0)
    assert told["jobs_completed"] == 0 and told["cancel_ms"] == {"p50": None, "p95": None, "p99": None}
    assert told["run_s"] == {} and told["timeouts"]["run"] == 0


def test_a_cluster_has_metrics_of_its_nodes_and_one_machine_has_none() -> None:
    gauges = replace(GAUGES, cluster=ClusterGauges(NODES, nodes_lost=1, cpus_requested=12))
    families = metrics_exposition.families_of(used(), gauges, 0)
    found = samples(metrics_exposition.as_text(families, openmetrics=False).decode())
    by_node = {
        name.removeprefix("node_"): {sample.labels["node"]: sample.value for sample in found[name]}
        for name in found
        if name.startswith("node_")
    }
    assert by_node == {
        "up": {"gpu-1": 1, "gpu-2": 0}, "slots": {"gpu-1": 4, "gpu-2": 0}, "running": {"gpu-1": 2, "gpu-2": 0},
        "heard_seconds": {"gpu-1": 0.5, "gpu-2": 30}, "delay_seconds": {"gpu-1": 0.002},
    }  # fmt: skip
    states = {sample.labels["state"]: sample.value for sample in found["nodes"]}
    assert states == dict.fromkeys(NODE_STATES, 0) | {"live": 1, "lost": 1}
    assert [sample.value for sample in found["nodes_lost_total"]] == [1]
    told = metrics_exposition.as_json(used(), gauges, 1.0)
    assert (told["nodes"], told["nodes_lost"], told["cpus_requested"]) == (states, 1, 12)
    assert [sample.value for sample in found["cpus_requested"]] == [12]
    alone = metrics_exposition.as_json(used(), GAUGES, 1.0)
    assert not [name for name in [*samples(text()), *alone] if "node" in name or "cpus" in name]
