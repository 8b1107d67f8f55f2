"""The server's own routes, and its description of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, StartServer, problem_of
from jsonschema import Draft202012Validator

from killable.supervisor.settings import PoolSpec


@pytest.mark.row("A16")
async def test_health_answers_while_every_worker_is_busy(server: Server) -> None:
    jobs = [await server.submit(type) for type in ("spin", "sleep_native")]
    for job_id in jobs:
        await server.read(job_id, until="started")
    for path in ("/health", "/livez"):
        answer = await server.client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    for job_id in jobs:
        assert (await server.record(job_id))["state"] == "running"
        await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")


@pytest.mark.own_server
async def test_readiness(server: OwnServer) -> None:
    answer = await server.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "degraded": [],
        "pools": [{"name": "tests", "state": "ready", "detail": ""}],
    }
    await server.supervisor.close()
    problem = problem_of(await server.client.get("/readyz"), 503, "draining")
    assert problem["retryable"] and problem["degraded"]
    assert [pool["name"] for pool in problem["pools"]] == ["tests"], "and which pool is why"
    answer = await server.client.post("/v1/jobs", json={"type": "echo"})
    problem_of(answer, 503, "draining")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_module_that_does_not_import_breaks_its_own_pool_only(
    start_server: StartServer, tmp_path: Path
) -> None:
    module = tmp_path / "broken_jobs.py"
    module.write_text("import no_such_module_anywhere\n")
    async with start_server(more=(PoolSpec(name="broken", modules=(str(module),)),)) as server:
        answer = await server.client.get("/readyz")
        assert answer.status_code == 200 and answer.json()["status"] == "degraded"
        assert len(answer.json()["degraded"]) == 1 and "broken" in answer.json()["degraded"][0]
        pools = {pool["name"]: pool for pool in answer.json()["pools"]}
        assert pools["broken"]["state"] == "broken" and pools["tests"]["state"] == "ready"
        assert "Traceback" in pools["broken"]["detail"] and "no_such_module_anywhere" in pools["broken"]["detail"]
        unknown = problem_of(await server.client.post("/v1/jobs", json={"type": "its"}), 404, "unknown_job_type")
        why = "ModuleNotFoundError: No module named 'no_such_module_anywhere'"
        assert unknown["detail"].endswith(f"; those of pool broken are not known: {why}")
        assert (await server.record(await server.submit("echo"), wait_s=60))["state"] == "completed"


async def test_a_type_whose_package_is_missing_says_how_to_get_it(server: Server) -> None:
    types = {item["name"]: item for item in (await server.client.get("/v1/job-types")).json()["job_types"]}
    assert not types["unavailable"]["available"]
    assert "pip install no-such-package" in types["unavailable"]["unavailable_reason"]
    answer = await server.client.post("/v1/jobs", json={"type": "unavailable"})
    record = await server.record(answer.json()["job_id"], wait_s=60)
    assert record["error"]["code"] == "spawn" and "pip install no-such-package" in record["error"]["message"]
    assert (await server.client.get("/readyz")).json()["status"] == "ok"


@pytest.mark.own_server
async def test_info(server: OwnServer) -> None:
    info = (await server.client.get("/v1/info")).json()
    assert info["instance_id"] == server.supervisor.instance_id and info["started_at"] == server.supervisor.started_at
    assert re.match(r"\d+\.\d+", info["version"]) and "resume" in info["features"]


async def test_job_types_say_what_they_take(server: Server) -> None:
    types = {item["name"]: item for item in (await server.client.get("/v1/job-types")).json()["job_types"]}
    echo = types["echo"]
    assert echo["description"] == "Return the input." and echo["available"] and echo["pool"] == "tests"
    assert echo["limits"]["run_s"] and "run_s" in echo["caps"]
    Draft202012Validator.check_schema(echo["input_schema"])
    assert set(echo["input_schema"]["properties"]) == {"text", "number", "mode"}
    assert types["slow_clean"]["limits"]["grace_s"] == 30 and types["count"]["operations"] == ["infer"]


@pytest.mark.row("G1")
@pytest.mark.row("G2")
@pytest.mark.row("G3")
async def test_workers_are_listed_inspected_and_killed(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        job_id = await server.submit("spin")
        await server.read(job_id, until="started")
        workers = (await server.client.get("/v1/workers")).json()["workers"]
        (busy,) = [worker for worker in workers if worker["job_id"] == job_id]
        assert busy["state"] == "busy" and busy["pid"] > 1 and busy["type"] == "spin" and busy["attempt"] == 1
        one = (await server.client.get(f"/v1/workers/{busy['worker_id']}")).json()
        assert one["pid"] == busy["pid"] and one["age_s"] >= busy["age_s"]
        assert busy["worker_id"] == (await server.record(job_id))["worker_id"]
        answer = await server.client.delete(f"/v1/workers/{busy['worker_id']}?reason=swap")
        assert answer.status_code == 200
        record = await server.record(job_id, wait_s=60)
        assert record["state"] == "cancelled" and record["error"]["by"] == "operator"
        # its place is taken by another one
        assert (await server.record(await server.submit("echo"), wait_s=60))["state"] == "completed"
        for path in ("w-none", str(busy["pid"]), "1"):
            problem_of(await server.client.get(f"/v1/workers/{path}"), 404, "unknown_worker")
            problem_of(await server.client.delete(f"/v1/workers/{path}"), 404, "unknown_worker")


@pytest.mark.row("A19")
async def test_the_description_is_complete_and_true(server: Server) -> None:
    description = (await server.client.get("/openapi.json")).json()
    assert (await server.client.get("/openapi.json")).json() == description
    job_id = await server.submit("fails", message="x")
    await server.record(job_id, wait_s=60)
    done = await server.submit("echo")
    await server.record(done, wait_s=60)
    for method, path, template, status in (
        ("get", "/livez", "/livez", 200),
        ("get", "/health", "/health", 200),
        ("get", "/readyz", "/readyz", 200),
        ("get", "/v1/info", "/v1/info", 200),
        ("get", "/v1/job-types", "/v1/job-types", 200),
        ("get", "/v1/workers", "/v1/workers", 200),
        ("get", "/v1/workers/x", "/v1/workers/{worker_id}", 404),
        ("get", "/v1/jobs", "/v1/jobs", 200),
        ("get", "/v1/jobs?limit=0", "/v1/jobs", 422),
        ("get", f"/v1/jobs/{job_id}", "/v1/jobs/{job_id}", 200),
        ("get", "/v1/jobs/x", "/v1/jobs/{job_id}", 404),
        ("get", f"/v1/jobs/{job_id}/result", "/v1/jobs/{job_id}/result", 409),
        ("delete", f"/v1/jobs/{done}", "/v1/jobs/{job_id}", 409),
        ("post", "/v1/jobs/x/cancel", "/v1/jobs/{job_id}/cancel", 404),
    ):
        answer = await server.client.request(method, path)
        assert answer.status_code == status, path
        _check(description, template, method, answer.status_code, answer.headers["content-type"], answer.json())
    answer = await server.client.post("/v1/jobs", json={"type": "spin"})
    _check(description, "/v1/jobs", "post", 202, "application/json", answer.json())
    answer = await server.client.delete(f"{answer.headers['location']}?grace_s=0")
    _check(description, "/v1/jobs/{job_id}", "delete", 200, "application/json", answer.json())
    spellings = description["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {item["$ref"].split("/")[-1] for item in spellings["oneOf"]} == {"JobRequest", "OperationRequest"}


def _check(description: dict[str, Any], path: str, method: str, status: int, kind: str, body: Any) -> None:
    """Check an answer against the schema that the description gives for it, with no member that is not described."""
    answers = description["paths"][path][method]["responses"]
    schema = answers[str(status)]["content"][kind]["schema"]
    Draft202012Validator(schema | {"components": description["components"]}).validate(body)
    if kind == "application/json":
        described = description["components"]["schemas"][schema["$ref"].split("/")[-1]]["properties"]
        assert set(body) <= set(described), path


async def test_what_is_streamed_is_described_as_text(server: Server) -> None:
    """A generated client hands it to its caller as such. One called an object was parsed as one, which failed. So did
    one whose name is that of the generator's own class for files, in the module of each upload.
    """
    description = (await server.client.get("/openapi.json")).json()
    streams = [
        content["text/event-stream"]["schema"]
        for methods in description["paths"].values()
        for described in methods.values()
        for answer in described["responses"].values()
        if "text/event-stream" in (content := answer.get("content", {}))
    ]
    assert len(streams) >= 7 and {each["type"] for each in streams} == {"string"}
    schemas = description["components"]["schemas"]
    assert not {"File", "Client", "Response", "Unset"} & schemas.keys()
    for value in ("result", "partial"):
        answer = description["paths"][f"/v1/jobs/{{job_id}}/{value}"]["get"]["responses"]["200"]
        assert answer["content"]["application/json"] == {"schema": {}}, "a client without one returns nothing"
    refers_to = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(description)))
    assert {each.removeprefix("#/components/schemas/") for each in refers_to} <= schemas.keys(), "all is there"


async def test_each_operation_has_a_name_of_its_own(server: Server) -> None:
    """They are the names of a generated client's calls: a new one of an old operation breaks its users' programs."""
    description = (await server.client.get("/openapi.json")).json()
    names = [each["operationId"] for methods in description["paths"].values() for each in methods.values()]
    assert len(set(names)) == len(names)
    assert {"submit_job", "get_job", "cancel_job", "list_jobs", "get_result", "stream_job", "chat"} <= set(names)
    assert not [name for name in names if "_v1_" in name]


@pytest.mark.row("B15")
@pytest.mark.row("B9")
async def test_a_dropped_job_is_a_404_that_says_what_became_of_it(start_server: StartServer) -> None:
    async with start_server(keep_jobs=1) as server:
        first = await server.submit("echo", text="x")
        await server.supervisor.wait(first, 20)
        second = await server.submit("echo", text="x")  # not before: its end drops the first
        await server.supervisor.wait(second, 20)
        ended = await server.record(second)
        for path in (f"/v1/jobs/{first}", f"/v1/jobs/{first}/stream", f"/v1/jobs/{first}/result"):
            problem = problem_of(await server.client.get(path), 404, "unknown_job")
            assert (problem["state"], problem["dropped_by"], problem["limit"]) == ("completed", "keep_jobs", 1)
            assert problem["ended_at"] <= ended["ended_at"] and "raise keep_jobs" in problem["detail"]
        assert "dropped_by" not in problem_of(await server.client.get("/v1/jobs/job-x"), 404, "unknown_job")
