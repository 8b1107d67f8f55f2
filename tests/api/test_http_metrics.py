"""GET /metrics and GET /v1/metrics, over jobs that end in every way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.engines import ENGINE
from support.looped_cases import cases
from support.processes import computes
from support.waiting import Pending, until_async

pytestmark = pytest.mark.own_server

OPENMETRICS = "application/openmetrics-text"


async def counts(server: Server) -> dict[str, Any]:
    answer = await server.client.get("/v1/metrics", headers={"accept": ""})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    told: dict[str, Any] = answer.json()
    return told


async def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await server.client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


@pytest.mark.row("A14", "F1", "A9")
async def test_every_ending_is_counted_once(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(workers=1) as server:
        for job_id in (
            await server.submit("echo", text="x"),
            await server.submit("fails"),
            await server.submit("leaves", exit_code=3),
            await server.submit("spin", members={"limits": {"run_s": 0.1}}),
            await server.submit("unavailable"),
        ):
            await server.record(job_id, wait_s=20)
        running = await server.submit("gated", gates=[str(tmp_path / "never")])
        waiting = await server.submit("echo", members={"limits": {"queue_s": 0.05}})
        await server.read(running, until="started")
        await server.record(waiting, wait_s=20)
        queued = await server.submit("echo")
        told = await counts(server)
        assert (told["queued"], told["running"], told["workers"]["busy"]) == (1, 1, 1)
        for job_id in (queued, running, running):
            await server.client.delete(f"/v1/jobs/{job_id}")
        told = await counts(server)
        assert {state: told[f"jobs_{state}"] for state in ("completed", "failed", "cancelled", "timed_out")} == {
            "completed": 1, "failed": 3, "cancelled": 2, "timed_out": 2,
        }  # fmt: skip
        assert told["accepted"] == 8 and told["refused"] == {} and (told["queued"], told["running"]) == (0, 0)
        assert told["timeouts"] | {"run": 0, "queue": 0} == dict.fromkeys(told["timeouts"], 0)
        assert (told["timeouts"]["run"], told["timeouts"]["queue"]) == (1, 1)
        found = await samples(server)
        ended = {labels: n for (name, labels), n in found.items() if name == "killable_jobs_total" and n}
        assert sum(ended.values()) == 8
        assert ended[("outcome", "timed_out"), ("type", "spin")] == 1
        assert ended[("outcome", "cancelled"), ("type", "gated")] == 1


@pytest.mark.row("F4", "F8", "PEERS-M")
async def test_a_cancel_is_measured_and_its_signals_counted(server: OwnServer) -> None:
    for job_type in ("spin", "sleep_native"):
        job_id = await server.submit(job_type, members={"limits": {"grace_s": 60}})
        await server.read(job_id, until="started")
        await until_async(computes((await server.record(job_id))["pid"]), "it is where it stays")
        await server.client.delete(f"/v1/jobs/{job_id}?reason=enough")
    told = await counts(server)
    assert told["stops"] == {"cancelled": 2} and told["kills"] == {"SIGTERM": 2, "SIGKILL": 1}
    assert 0 < told["cancel_ms"]["p50"] <= told["cancel_ms"]["p95"] <= told["cancel_ms"]["p99"] < 60_000
    found = await samples(server)
    phases = {
        dict(labels)["phase"]: n for (name, labels), n in found.items() if name == "killable_cancel_seconds_count"
    }
    assert phases == {"term": 2, "ack": 1, "exit": 2, "tree_empty": 2}
    assert found["killable_kills_total", (("cause", "cancelled"), ("signal", "SIGKILL"))] == 1
    assert found["killable_stops_total", (("by", "user"), ("cause", "cancelled"))] == 2

    registry = server.supervisor._observer.metrics.registry

    def recovered() -> object:
        count = registry.get_sample_value("killable_recovery_seconds_count")
        return count == 2 or Pending(count)

    await until_async(recovered, "a worker is warm in place of each")


@pytest.mark.row("A28", "F3")
async def test_refusals_are_counted_by_code(start_server: StartServer, tmp_path: Path) -> None:
    async with start_server(workers=1, queue_jobs_max=1) as server:
        gate = str(tmp_path / "gate")
        running = await server.submit("gated", gates=[gate])
        await server.read(running, until="started")
        await server.submit("gated", gates=[gate])
        answer = await server.client.post("/v1/jobs", json={"type": "gated", "input": {"gates": []}})
        problem_of(answer, 429, "queue_full")
        answer = await server.client.post("/v1/jobs", json={"type": "echo", "limits": {"run_s": 1e9}, "input": {}})
        problem_of(answer, 422, "limit_over_cap")
        told = await counts(server)
        assert told["refused"] == {"queue_full": 1, "limit_over_cap": 1} and told["accepted"] == 2
        assert ("killable_submissions_total", (("result", "queue_full"),)) in await samples(server)
        Path(gate).touch()


@pytest.mark.row("F2")
async def test_nothing_of_a_job_is_a_label_and_labels_do_not_grow_with_the_jobs(server: Server) -> None:
    async def series() -> set[Any]:
        return {key for key in await samples(server) if key[0] != "killable_recovery_seconds_bucket"}

    ids = [await server.submit("count", n=2) for _ in range(2)]
    for job_id in ids:
        await server.record(job_id, wait_s=20)
    before = await series()
    more = [await server.submit("count", n=2, members={"tags": {"team": f"t{n}"}}) for n in range(20)]
    for job_id in more:
        await server.record(job_id, wait_s=20)
    text = (await server.client.get("/metrics")).text
    assert await series() == before
    assert not [job_id for job_id in ids + more if job_id in text] and "team" not in text
    assert not re.search(r"w-\d|job-", text)


@pytest.mark.row("F1", "F2")
async def test_counters_never_fall_and_tokens_count_while_a_job_runs(server: OwnServer, tmp_path: Path) -> None:
    gates = [str(tmp_path / name) for name in ("one", "two")]
    job_id = await server.submit("gated", gates=gates)
    seen: list[float] = []
    for gate in gates:
        seen.append((await samples(server))["killable_tokens_total", ()])
        Path(gate).touch()
        await until_async(
            lambda: (n := server.supervisor._registry.get(job_id).log.tokens) > seen[-1] or Pending(n), "a token"
        )
    seen.append((await samples(server))["killable_tokens_total", ()])
    before = await samples(server)
    await server.record(job_id, wait_s=20)
    for name in ("echo", "fails"):
        await server.record(await server.submit(name), wait_s=20)
    after = await samples(server)
    assert seen == sorted(seen) and seen[-1] >= 2
    rising = ("_total", "_count", "_bucket", "_sum")
    assert all(after[key] >= value for key, value in before.items() if key[0].endswith(rising))


@pytest.mark.row("F3")
async def test_open_streams_are_a_gauge(server: OwnServer, tmp_path: Path) -> None:
    job_id = await server.submit("gated", gates=[str(tmp_path / "gate")])
    async with server.client.stream("GET", f"/v1/jobs/{job_id}/stream") as stream:
        await anext(stream.aiter_lines())
        assert (await counts(server))["sse_clients"] == 1
    await until_async(
        lambda: server.supervisor._observer.sse_clients == 0 or Pending("still there"), "the reader is gone"
    )
    await server.client.delete(f"/v1/jobs/{job_id}")


@cases(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("application/json, text/plain", "application/json"),
        ("text/plain;q=0.5, application/json", "application/json"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain, */*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;q=0", "application/json"),
        (f"{OPENMETRICS};version=1.0.0,text/plain;q=0.5", f"{OPENMETRICS}; version=1.0.0; charset=utf-8"),
        (";;q=x,,", "application/json"),
    ],
)
async def test_json_unless_text_is_asked_for(server: Server, accept: str, content_type: str) -> None:
    answer = await server.client.get("/v1/metrics", headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


@pytest.mark.row("F2")
async def test_prometheus_gets_text_and_openmetrics_where_it_asks_for_it(server: Server) -> None:
    for accept in ("", "*/*", "application/json"):
        answer = await server.client.get("/metrics", headers={"accept": accept})
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert {family.name for family in parse_text(answer.text)}
    scraped = f"{OPENMETRICS};version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    answer = await server.client.get("/metrics", headers={"accept": scraped})
    assert answer.headers["content-type"] == f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    assert "killable_jobs" in {family.name for family in parse_openmetrics(answer.text)}


async def test_the_schema_has_every_member_of_the_json(server: Server) -> None:
    schema = (await server.client.get("/openapi.json")).json()
    listed = schema["components"]["schemas"]["Counts"]
    of_nodes = {"nodes", "nodes_lost", "cpus_requested"}
    of_files = {"files", "files_bytes", "files_received_bytes", "files_sent_bytes"}  # of a server that keeps some
    required = set(listed["required"])
    assert set(listed["properties"]) == required | of_nodes | of_files and not (of_nodes | of_files) & required
    assert set(await counts(server)) == required | (of_nodes if ENGINE == "cluster" else set())
    texts = schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert set(texts) == {"text/plain", OPENMETRICS}
