"""What `contrib` asks Prometheus for exists, with these labels, on a server that has everything turned on; and promtool
finds that the alerts fire when they should.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.killable_command import Command, Server, client_of
from support.otlp_collector import collecting
from support.waiting import Pending, until

from killable import JobCancelled
from killable.api.cli.verbs import VERBS
from killable.workers.error_codes import CODES

pytestmark = pytest.mark.own_server
CONTRIB = Path(__file__).parents[2] / "contrib"
RULES = CONTRIB / "prometheus" / "killable.rules.yml"
DASHBOARD = CONTRIB / "grafana" / "dashboard.py"
JOBS = """
from collections.abc import Iterator
from typing import Any

from killable import Context, job


@job(openai="chat", openai_model="small")
def chat(messages: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("a", "b", "c")
    return {"text": "abc", "finish_reason": "stop", "usage": {"prompt_tokens": 3, "completion_tokens": 3}}


@job
def spin(ctx: Context) -> None:
    ctx.progress(1)
    sum(range(10**13))
"""
CONFIGURATION = """
[server]
port = 0
journal = "jobs.journal"

[telemetry]
endpoint = "{url}"
metrics_every_s = "100ms"

[pools.p]
module = "./my_jobs.py"
workers = 1
"""
OPENMETRICS = "application/openmetrics-text"
OF_PROMETHEUS = {"up": set(), "ALERTS": set()}
FUNCTIONS = {"sum", "max", "min", "rate", "increase", "histogram_quantile", "by", "count"}


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a server says of itself, which has journal, files and telemetry, after jobs that ended in several ways."""
    folder = tmp_path_factory.mktemp("watched")
    with collecting() as collector:
        (folder / "my_jobs.py").write_text(JOBS)
        (folder / "killable.toml").write_text(CONFIGURATION.format(url=collector.url))
        server = Server(Command(folder))
        try:
            with client_of(server.url) as client:
                job = client.submit("spin")
                until(lambda: job.record()["progress"] or Pending(""), "it runs")
                waiting = client.submit("chat", {"messages": []})
                plain = client.exposition()
                job.cancel(grace_s=0)
                with pytest.raises(JobCancelled):
                    job.result(wait_s=30)
                waiting.result(wait_s=30)
                trace_id = job.record()["trace_id"]
                until(lambda: names_by_otlp(collector.metrics) >= CONVENTIONS or Pending(collector.metrics), "metrics")
                openmetrics = httpx.get(f"{server.url}/metrics", headers={"Accept": OPENMETRICS})
                yield {
                    "text": client.exposition(), "while it waited": plain, "trace": trace_id,
                    "openmetrics": openmetrics.text, "otlp": list(collector.metrics),
                }  # fmt: skip
        finally:
            server.stop()


CONVENTIONS = {
    "http.server.request.duration", "http.server.active_requests", "process.cpu.time", "process.memory.usage",
    "gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token",
    "gen_ai.client.token.usage",
}  # fmt: skip


def by_otlp(requests: list[Any]) -> dict[str, Any]:
    """Return the metrics of the last request by name."""
    return {
        metric.name: metric
        for of_resource in requests[-1].resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    } if requests else {}  # fmt: skip


def names_by_otlp(requests: list[Any]) -> set[str]:
    return set(by_otlp(requests))


def labels_of(text: str) -> dict[str, set[str]]:
    """Return the labels of each series by its name."""
    found: dict[str, set[str]] = {}
    for family in parse_text(text):
        for name in {family.name, *(sample.name for sample in family.samples)}:
            found.setdefault(name, set())
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
        if family.type == "histogram":
            for suffix in ("_bucket", "_sum", "_count"):
                found.setdefault(f"{family.name}{suffix}", set())
    return found


def asked(expression: str) -> list[tuple[str, set[str]]]:
    """Return the series that an expression selects, each with the labels that it looks at."""
    plain = re.sub(r"\$\w+", "x", re.sub(r'"[^"]*"', '""', expression))
    found = []
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", plain) for label in group.split(",")}
    without_groups = re.sub(r"by \([^)]*\)", "", plain)
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?", without_groups):
        if name in FUNCTIONS or re.fullmatch(r"x|[smhd]", name):
            continue
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector or ""))
        found.append((name, labels | grouped))
    return found


def expressions() -> list[tuple[str, str]]:
    """Return all expressions with where they stand."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for group in rules for rule in group["rules"]]
    panels = json.loads(DASHBOARD.with_name("killable.json").read_text("utf-8"))["panels"]
    found += [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    return found


def missing(found: dict[str, set[str]], all_expressions: list[tuple[str, str]]) -> list[str]:
    everywhere = {"job", "instance", "le"}
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    wrong = []
    for where, expression in all_expressions:
        for name, labels in asked(expression):
            if name in recorded or name in OF_PROMETHEUS:
                continue
            if name not in found:
                wrong.append(f"{where}: there is no {name}")
            elif found[name] and (unknown := labels - found[name] - everywhere):  # some have no sample here
                wrong.append(f"{where}: {name} has no label {', '.join(sorted(unknown))}")
    return wrong


def test_each_panel_and_alert_asks_for_what_exists(scrape: dict[str, Any]) -> None:
    found = labels_of(scrape["text"])
    assert missing(found, expressions()) == []
    assert len(expressions()) > 60
    assert missing(found, [("x", 'sum by (typ) (rate(killable_jobs_total{outcom="a"}[5m]))')]) == [
        "x: killable_jobs_total has no label outcom, typ"
    ], "the control"
    assert missing(found, [("x", "killable_nothing > 1")]) == ["x: there is no killable_nothing"]


def test_each_code_that_a_rule_names_exists() -> None:
    named = {
        code
        for _, expression in expressions()
        for texts in re.findall(r'(?:code|result)[!=]~"([^"]*)"', expression)
        for code in texts.split("|")
    }
    assert named - CODES.keys() == {"accepted", "replayed", "dropped", "failed"}


def test_each_command_that_an_alert_advises_exists() -> None:
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    advice = [
        rule["annotations"].get("description", "") for group in rules for rule in group["rules"] if "alert" in rule
    ]
    named = {verb for text in advice for verb in re.findall(r"`killable ([a-z]+)", text)}
    assert {"ps", "explain", "workers", "doctor"} <= named <= VERBS.keys()
    outside = [text for text in advice if re.search(r"\bkillable [a-z]+", re.sub(r"`[^`]*`", "", text))]
    assert outside == [], "a command stands in backticks"


def test_the_dashboard_is_what_its_program_writes() -> None:
    done = subprocess.run([sys.executable, DASHBOARD, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    panels = json.loads(DASHBOARD.with_name("killable.json").read_text("utf-8"))["panels"]
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert all(x + width <= 24 for _, width, x, _ in places)
    cells = [(x + i, y + j) for h, w, x, y in places for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells)), "two panels lie on each other"


def test_alerts_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install promtool")
    for arguments in (["check", "rules", RULES.name], ["test", "rules", "killable.test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = RULES.with_name("killable.test.yml").read_text("utf-8")
    alerts = [where for where, _ in expressions() if where.startswith("Killable")]
    assert all(tested.count(alert) >= 2 for alert in alerts), "an alert that is not tested both ways"


def test_exemplars_lead_to_traces_and_what_waits_is_told(scrape: dict[str, Any]) -> None:
    exemplars = {
        (family.name, sample.exemplar.labels["trace_id"])
        for family in parse_openmetrics(scrape["openmetrics"])
        for sample in family.samples
        if sample.exemplar
    }
    for name in ("killable_kill_seconds", "killable_cancel_seconds", "killable_queue_wait_seconds"):
        assert (name, scrape["trace"]) in exemplars
    assert any(name == "http_server_request_duration_seconds" for name, _ in exemplars)
    assert "# {" not in scrape["text"], "the older format has none"
    for line in (
        'killable_queued_jobs{type="chat"} 1.0', 'killable_pool_state{pool="p",state="ready"} 1.0',
        'killable_pool_workers{pool="p",state="busy"} 1.0', "killable_journal_failing 0.0",
    ):  # fmt: skip
        assert line in scrape["while it waited"]
    assert 'killable_endings_total{code="cancelled",type="spin"} 1.0' in scrape["text"]


def test_metrics_go_by_otlp_under_the_names_of_the_conventions(scrape: dict[str, Any]) -> None:
    found = by_otlp(scrape["otlp"])
    point = found["gen_ai.server.time_to_first_token"].histogram.data_points[0]
    labels = {each.key: each.value.string_value for each in point.attributes}
    assert labels == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "killable", "gen_ai.request.model": "small",
    }  # fmt: skip
    assert point.count == sum(point.bucket_counts) == 1 and len(point.bucket_counts) == len(point.explicit_bounds) + 1
    usage = {
        next(each.value.string_value for each in point.attributes if each.key == "gen_ai.token.type"): point.sum
        for point in found["gen_ai.client.token.usage"].histogram.data_points
    }
    assert usage == {"input": 3, "output": 3}
    durations = found["http.server.request.duration"]
    assert durations.unit == "s" and durations.histogram.aggregation_temporality == 2
    members = [{each.key: each.value for each in point.attributes} for point in durations.histogram.data_points]
    needed = {"http.request.method", "http.response.status_code", "url.scheme", "network.protocol.version"}
    assert all(needed <= each.keys() and each["url.scheme"].string_value == "http" for each in members)
    assert found["http.server.active_requests"].WhichOneof("data") == "sum"
    assert {"killable_endings_total", "killable_kill_seconds", "killable_pool_workers"} <= set(found)
