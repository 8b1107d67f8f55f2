"""Writes killable.json, the dashboard for Grafana, from the panels below: `python contrib/grafana/dashboard.py`.

`--check` says whether the file is what this writes. The standard library only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("killable.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
OF = 'job=~"$job",instance=~"$instance"'
"""What each expression selects: replaces `OF` in it."""
WIDTH = 24


def query(expression: str, legend: str = "", *, exemplars: bool = False) -> dict[str, Any]:
    return {"expr": expression.replace("OF", OF), "legendFormat": legend or "__auto", "exemplar": exemplars}


def quantiles(metric: str, by: str = "") -> list[dict[str, Any]]:
    """Return the median, p95 and p99 of a histogram."""
    labels, legend = ("le", "") if not by else (f"le, {by}", f"{{{{{by}}}}} ")
    return [
        query(
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{OF}}[$__rate_interval])))",
            f"{legend}{name}", exemplars=True,
        )
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]  # fmt: skip


def rate(metric: str, by: str) -> list[dict[str, Any]]:
    return [query(f"sum by ({by}) (rate({metric}{{OF}}[$__rate_interval]))")]


Panel = tuple[str, str, int, str, list[dict[str, Any]], str]
"""Title, kind, width, unit, queries, and what it tells."""

ROWS: dict[str, list[Panel]] = {
    "Now": [
        ("Up", "stat", 4, "short", [query("sum(up{OF})")], "Servers that answer."),
        ("Running", "stat", 4, "short", [query('sum(killable_workers{OF,state="busy"})')], "Workers with a job."),
        ("Waiting", "stat", 4, "short", [query("sum(killable_queue_depth{OF})")], "Jobs without a worker."),
        ("Oldest waits for", "stat", 4, "s", [query("max(killable_queue_age_seconds{OF})")], ""),
        ("Quarantined", "stat", 4, "short", [query('sum(killable_workers{OF,state="quarantined"})')],
         "Workers that SIGKILL did not end: more than 0 is an alarm."),
        ("Not proven empty", "stat", 4, "short", [query("sum(killable_unproven_total{OF})")],
         "Ended attempts of which it is not proven that no process is left."),
    ],
    "Jobs": [
        ("Endings by code", "timeseries", 12, "ops", rate("killable_endings_total", "code"), ""),
        ("Endings by type", "timeseries", 12, "ops", rate("killable_jobs_total", "type, outcome"), ""),
        ("Waiting, by type", "timeseries", 8, "short", [query("sum by (type) (killable_queued_jobs{OF})")], ""),
        ("Wait for a worker", "timeseries", 8, "s", quantiles("killable_queue_wait_seconds"), ""),
        ("Duration", "timeseries", 8, "s", quantiles("killable_job_duration_seconds"), "Without cancelled jobs."),
        ("Refused", "timeseries", 8, "ops",
         [query('sum by (result) (rate(killable_submissions_total'
                '{OF,result!~"accepted|replayed"}[$__rate_interval]))')],
         "By code."),
        ("Retries", "timeseries", 8, "ops", rate("killable_retries_total", "code"), "By the code of what failed."),
        ("Tokens", "timeseries", 8, "ops",
         [query("sum(rate(killable_tokens_total{OF}[$__rate_interval]))", "tokens"),
          query("sum(rate(killable_tokens_saved_total{OF}[$__rate_interval]))", "saved by stops")], ""),
    ],
    "Ends": [
        ("Cancel until nothing is left", "timeseries", 8, "s",
         [query('histogram_quantile(0.5, sum by (le, phase) (rate(killable_cancel_seconds_bucket{OF}'
                '[$__rate_interval])))', "{{phase}} p50", exemplars=True),
          query('histogram_quantile(0.99, sum by (le, phase) (rate(killable_cancel_seconds_bucket{OF}'
                '[$__rate_interval])))', "{{phase}} p99", exemplars=True)],
         "SIGTERM, acknowledgement, exit, empty process tree."),
        ("SIGKILL until nothing is left", "timeseries", 8, "s", quantiles("killable_kill_seconds"), ""),
        ("Signals", "timeseries", 8, "ops", rate("killable_kills_total", "signal, cause"), ""),
        ("Until the next worker is warm", "timeseries", 12, "s", quantiles("killable_recovery_seconds"), ""),
        ("Deadlines", "timeseries", 12, "ops", rate("killable_timeouts_total", "kind"), ""),
    ],
    "Workers and pools": [
        ("Workers", "timeseries", 8, "short", [query("sum by (state) (killable_workers{OF})")], ""),
        ("Busy share of each pool", "timeseries", 8, "percentunit",
         [query('sum by (pool) (killable_pool_workers{OF,state="busy"})'
                ' / sum by (pool) (killable_pool_workers_max{OF})')],
         "At 100 % jobs wait."),
        ("Pools that are not ready", "timeseries", 8, "short",
         [query('sum by (pool, state) (killable_pool_state{OF,state!="ready"})')], ""),
        ("Memory of the workers", "timeseries", 12, "bytes", [query("sum(killable_worker_rss_bytes{OF})", "resident")],
         "Shared pages count in each worker."),
        ("Workers that ended early", "timeseries", 12, "short",
         [query('sum by (pool, cause) (increase(killable_workers_replaced_total{OF,cause!="served"}[1h])) > 0')],
         "In an hour, and why; without those that had all of their jobs."),
        ("Restarts of zygotes", "timeseries", 12, "short",
         [query("sum by (instance) (increase(killable_zygote_restarts_total{OF}[1h]))")], "In an hour."),
    ],
    "Server": [
        ("Requests by route", "timeseries", 12, "reqps",
         rate("http_server_request_duration_seconds_count", "http_request_method, http_route"), ""),
        ("Requests by status", "timeseries", 12, "reqps",
         rate("http_server_request_duration_seconds_count", "http_response_status_code"), ""),
        ("Longest turn of the event loop", "timeseries", 8, "s",
         [query("max by (instance) (killable_loop_longest_seconds{OF})")], "A kill is so late at most."),
        ("Processor of the server", "timeseries", 8, "percentunit",
         [query("sum by (instance) (rate(process_cpu_seconds_total{OF}[$__rate_interval]))")], "1 is one core."),
        ("Memory of the server", "timeseries", 8, "bytes",
         [query("sum by (instance) (process_resident_memory_bytes{OF})")], "Without its workers."),
        ("What is wrong", "timeseries", 6, "short",
         [query("max by (instance) (killable_degraded{OF})")], "How many things; /readyz names them."),
        ("Free on disk", "timeseries", 6, "percentunit",
         [query("min by (instance, of) (killable_disk_free_bytes{OF} / killable_disk_size_bytes{OF})")], ""),
        ("Open streams", "timeseries", 6, "short", [query("sum by (instance) (killable_sse_clients{OF})")], ""),
        ("Telemetry", "timeseries", 6, "ops", rate("killable_telemetry_total", "kind, result"),
         "Of servers that send traces or metrics by OTLP."),
    ],
    "Language models": [
        ("First token", "timeseries", 8, "s",
         quantiles("gen_ai_server_time_to_first_token_seconds", "gen_ai_request_model"), ""),
        ("Each token after it", "timeseries", 8, "s",
         quantiles("gen_ai_server_time_per_output_token_seconds", "gen_ai_request_model"), ""),
        ("Tokens", "timeseries", 8, "ops",
         rate("gen_ai_client_token_usage_sum", "gen_ai_request_model, gen_ai_token_type"), ""),
    ],
}  # fmt: skip


def panels() -> list[dict[str, Any]]:
    """Return the panels in their places: each row from the left to the right, in lines of WIDTH."""
    made: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        made.append({"type": "row", "title": row, "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}, "collapsed": False})
        y += 1
        x, height = 0, 0
        for title, kind, width, unit, queries, about in members:
            if x + width > WIDTH:
                x, y = 0, y + height
            height = 4 if kind == "stat" else 8
            made.append(
                _panel(title, kind, unit, queries, about) | {"gridPos": {"h": height, "w": width, "x": x, "y": y}}
            )
            x += width
        y += height
    return [panel | {"id": number} for number, panel in enumerate(made, 1)]


def _panel(title: str, kind: str, unit: str, queries: list[dict[str, Any]], about: str) -> dict[str, Any]:
    targets = [each | {"refId": chr(ord("A") + place), "datasource": SOURCE} for place, each in enumerate(queries)]
    panel = {
        "type": kind, "title": title, "description": about, "datasource": SOURCE, "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }  # fmt: skip
    if kind == "timeseries":
        panel["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return panel


def _variable(name: str, expression: str, label: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "refresh": 2, "multi": True,
        "includeAll": True, "current": {"text": ["All"], "value": ["$__all"]},
        "query": {"query": expression, "refId": name},
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    return {
        "title": "killable", "uid": "killable", "schemaVersion": 39, "editable": True, "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"}, "tags": ["killable"], "panels": panels(),
        "templating": {"list": [
            source,
            _variable("job", "label_values(killable_build_info, job)", "Job"),
            _variable("instance", 'label_values(killable_build_info{job=~"$job"}, instance)', "Server"),
        ]},
        "annotations": {"list": []},
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(0 if FILE.read_text("utf-8") == text() else f"{FILE} is stale: python {__file__}")
    FILE.write_text(text(), "utf-8")
