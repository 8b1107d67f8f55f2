"""Submitting over HTTP: both spellings, and every refusal."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from api_server import Server, StartServer, problem_of
from support.limit_values import every_limit
from support.looped_cases import cases

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.workers.authoring.limits_and_caps import LIMITS

JSON = {"content-type": "application/json"}


def pointers(problem: dict[str, Any]) -> set[str]:
    return {item["pointer"] for item in problem["faults"]}


@pytest.mark.row("A1")
@pytest.mark.row("A3")
async def test_post_answers_with_id_and_relative_stream_address(server: Server) -> None:
    answer = await server.client.post("/v1/jobs", json={"type": "echo", "input": {"text": "hello"}})
    assert answer.status_code == 202
    body = answer.json()
    assert re.fullmatch(r"job-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", body["job_id"])
    assert body["sse_url"] == body["stream_url"] == f"/v1/jobs/{body['job_id']}/stream"
    assert answer.headers["location"] == f"/v1/jobs/{body['job_id']}"
    assert body["state"] in ("queued", "running", "completed")
    assert body["input"] is None
    seen = await server.read(body["job_id"])
    assert seen.end["result"] == {"text": "hello", "number": 0, "mode": "plain"}


@pytest.mark.row("A2")
async def test_an_operation_request_names_an_operation_and_passes_the_rest_as_input(server: Server) -> None:
    body = {"operation": "infer", "model": "m", "prompt": "p", "n": 2, "tags": {"team": "search"}}
    answer = await server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    assert answer.json()["type"] == "count" and answer.json()["tags"] == {"team": "search"}
    seen = await server.read(answer.json()["job_id"])
    assert seen.tokens == [" 0", " 1"] and seen.markers == ["[DONE]"]
    by_name = await server.client.post("/v1/jobs", json={"operation": "echo", "text": "t"})
    assert by_name.status_code == 202
    problem_of(await server.client.post("/v1/jobs", json={"operation": "fly", "n": 2}), 404, "unknown_job_type")


@pytest.mark.row("A3")
async def test_a_clients_own_id_is_refused(server: Server) -> None:
    body = {"type": "echo", "input": {}, "job_id": "mine"}
    assert pointers(problem_of(await server.client.post("/v1/jobs", json=body), 422, "invalid")) == {"/job_id"}
    seed = {"operation": "echo", "job_id": "mine"}
    assert pointers(problem_of(await server.client.post("/v1/jobs", json=seed), 422, "invalid")) == {"/job_id"}


async def test_unknown_type(server: Server) -> None:
    problem = problem_of(
        await server.client.post("/v1/jobs", json={"type": "nope", "input": {}}), 404, "unknown_job_type"
    )
    assert "echo" in problem["known"]


@pytest.mark.row("A4")
async def test_all_faults_of_an_input_are_listed_and_none_is_echoed(server: Server) -> None:
    secret = "s3cret" * 50
    body = {"type": "echo", "input": {"text": 5, "number": secret, "mode": secret, "extra/~": secret}}
    answer = await server.client.post("/v1/jobs", json=body)
    problem = problem_of(answer, 422, "invalid")
    assert pointers(problem) == {"/input/text", "/input/number", "/input/mode", "/input/extra~1~0"}
    assert "s3cret" not in answer.text and all(item["message"] for item in problem["faults"])
    missing = problem_of(await server.client.post("/v1/jobs", json={"type": "count", "input": {}}), 422, "invalid")
    assert pointers(missing) == {"/input/n"}


@pytest.mark.row("A4")
async def test_all_faults_of_a_request_are_listed_and_none_is_echoed(server: Server) -> None:
    body = {
        "type": "echo",
        "input": [],
        "limits": {"run_s": "s3cret", "grace_s": -1, "memory_bytes": 1.5, "speed": 1},
        "priority": "s3cret",
        "tags": {"a": 1, "b c": "x"},
        "stop_when_client_leaves": "s3cret",
        "retry": {},
        "$blob": "x",
    }
    answer = await server.client.post("/v1/jobs", json=body)
    assert pointers(problem_of(answer, 422, "invalid")) == {
        *("/input", "/limits/run_s", "/limits/grace_s", "/limits/memory_bytes", "/limits/speed", "/priority"),
        *("/tags/a", "/tags/b c", "/stop_when_client_leaves", "/retry", "/$blob"),
    }
    assert "s3cret" not in answer.text


@cases("body", ["[]", '"text"', "5", "{}", '{"operation": 5}', '{"type": null}'])
async def test_json_that_is_no_job(server: Server, body: str) -> None:
    answer = await server.client.post("/v1/jobs", content=body, headers=JSON)
    assert problem_of(answer, 422, "invalid")["faults"]


@cases(
    "body",
    [
        *(b"", b"{", b'{"type": "echo"} trailing', b"{'type': 'echo'}", b"\xff\xfe\xfd", b"[" * 100_000),
        b'{"type": "echo", "input": {"number": ' + b"1" * 5000 + b"}}",
    ],
)
async def test_what_is_not_json(server: Server, body: bytes) -> None:
    problem = problem_of(await server.client.post("/v1/jobs", content=body, headers=JSON), 400, "malformed")
    assert not problem["retryable"]


async def test_null_is_no_job(server: Server) -> None:
    answer = await server.client.post("/v1/jobs", content=b"null", headers=JSON)
    assert (answer.status_code, answer.json()["code"]) in ((422, "invalid"), (400, "malformed"))  # by FastAPI's version


@cases("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_not_finite(server: Server, number: str) -> None:
    body = f'{{"type": "napper", "input": {{"seconds": {number}}}}}'
    answer = await server.client.post("/v1/jobs", content=body, headers=JSON)
    assert pointers(problem_of(answer, 422, "invalid")) == {"/input"}


async def test_an_input_nested_too_deeply(server: Server) -> None:
    body = '{"type": "echo", "input": {"text": %s}}' % ("[" * 900 + "]" * 900)
    answer = await server.client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.json()["code"] in ("invalid", "malformed") and answer.status_code in (400, 422)


async def test_lone_surrogates_pass_as_json_escapes(server: Server) -> None:
    body = b'{"type": "echo", "input": {"text": "\\ud800"}}'
    answer = await server.client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 202
    result = await server.client.get(f"/v1/jobs/{answer.json()['job_id']}/result", params={"wait_s": 60})
    assert b'"\\ud800"' in result.content


async def test_a_limit_over_its_cap_names_the_cap(server: Server) -> None:
    body = {"type": "echo", "input": {}, "limits": {"run_s": 1e8}}
    problem = problem_of(await server.client.post("/v1/jobs", json=body), 422, "limit_over_cap")
    assert "run_s" in str(problem)


async def test_more_than_any_cap_is_refused_by_its_name(start_server: StartServer) -> None:
    """And so is no limit at all; an operation goes by its path."""
    caps = {name: 50.0 for name in LIMITS if name not in ("memory_bytes", "output_bytes")}
    caps |= {"memory_bytes": float(1 << 28), "output_bytes": float(1 << 20)}
    over: dict[str, Any] = {name: cap * 2 for name, cap in caps.items() if name != "operation_s"}
    over |= {name: int(value) for name, value in over.items() if not name.endswith("_s")}
    asked = [({name: value}, name, caps[name], value) for name, value in over.items()]
    asked += [({name: None}, name, caps[name], None) for name in over if LIMITS[name].may_be_none]
    asked.append(({"operation_s": {"load/download": 101}}, "operation_s.load/download", 50, 101))
    async with start_server(caps=caps) as server:
        for limits, name, cap, value in asked:
            answer = await server.client.post("/v1/jobs", json={"type": "echo", "input": {}, "limits": limits})
            problem = problem_of(answer, 422, "limit_over_cap")
            assert (problem["limit"], problem["cap"], problem["asked"]) == (name, cap, value)
            assert name in problem["detail"] and f"{cap:.15g}" in problem["detail"]


@pytest.mark.row("C2")
async def test_every_limit_can_be_asked_for_one_job(server: Server) -> None:
    limits = every_limit(
        total_s=900.0, queue_s=290.0, start_s=280.0, first_token_s=270.0, idle_s=None, run_s=260.0,
        operation_s={"load/download": 5.0, "load": None}, grace_s=0.0, ack_s=None, memory_bytes=1 << 30, files_max=100,
        backoff_s=0.0,
    )  # fmt: skip
    answer = await server.client.post("/v1/jobs", json={"type": "echo", "limits": limits})
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    await server.read(job_id)
    record = await server.record(job_id)
    assert record["limits"] == limits and record["state"] == "completed", record


async def test_one_machine_takes_the_jobs_that_select_it_and_refuses_the_others(server: Server) -> None:
    """A selector that no machine can ever fit is a mistake; one of a cluster waits instead."""
    name = os.uname().nodename
    for nodes in ({"host": name}, {"node": f"!{name}x"}, {"zone": "!a"}):
        job_id = await server.submit("echo", members={"nodes": nodes})
        record = await server.record(job_id, wait_s=60)
        assert (record["state"], record["nodes"], record["node"]) == ("completed", nodes, None)
    for nodes, shown in (({"zone": "a"}, "zone=a"), ({"zone": "!a", "node": "elsewhere"}, "node=elsewhere, zone=!a")):
        answer = await server.client.post("/v1/jobs", json={"type": "echo", "nodes": nodes})
        problem = problem_of(answer, 422, "invalid")
        assert problem["detail"] == f"This server is one machine, {name}, which does not fit nodes {shown}"
        assert pointers(problem) == {"/nodes"}


async def test_selectors_of_nodes_are_checked(server: Server) -> None:
    many = {f"label{number}": "a" for number in range(17)}
    for wrong in ("zone=a", {"zone": ""}, {"zone": "a b"}, {"zone": "in(a"}, {"zone": 1}, {"": "a"}, many):
        answer = await server.client.post("/v1/jobs", json={"type": "echo", "nodes": wrong})
        problem = problem_of(answer, 422, "invalid")
        assert all(pointer.startswith("/nodes") for pointer in pointers(problem)), problem


async def test_a_job_named_by_operation_keeps_an_input_of_that_name(server: Server) -> None:
    answer = await server.client.post("/v1/jobs", json={"operation": "echo", "nodes": {"zone": "a"}})
    problem = problem_of(answer, 422, "invalid")
    assert pointers(problem) == {"/nodes"} and "machine" not in problem["detail"], "this type has no such parameter"


@pytest.mark.row("C6")
async def test_the_times_of_operations_are_checked(server: Server) -> None:
    many = {str(number): 1 for number in range(101)}
    for wrong in ({"a b": 1}, {"/load": 1}, {"load": 0}, {"load": "5m"}, 5, many):
        body = {"type": "echo", "limits": {"operation_s": wrong}}
        problem = problem_of(await server.client.post("/v1/jobs", json=body), 422, "invalid")
        assert any(pointer.startswith("/limits/operation_s") for pointer in pointers(problem)), problem


@pytest.mark.row("A24")
async def test_a_job_that_has_to_wait_says_where_it_stands(start_server: StartServer) -> None:
    async with start_server(workers=1) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        answers = [await server.client.post("/v1/jobs", json={"type": "echo"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202] * 3
        positions = [answer.json()["queue"]["position"] for answer in answers]
        assert positions == list(range(positions[0], positions[0] + 3))
        assert "estimated_wait_s" in answers[0].json()["queue"]
        await server.client.post("/v1/jobs/cancel", json={"state": "active", "grace_s": 0})


@pytest.mark.row("A28")
@pytest.mark.row("B11")
async def test_a_full_queue_by_number(start_server: StartServer) -> None:
    async with start_server(workers=1, queue_jobs_max=1) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        await server.submit("echo")
        answer = await server.client.post("/v1/jobs", json={"type": "echo", "input": {}})
        assert problem_of(answer, 429, "queue_full")["retryable"]
        assert int(answer.headers["retry-after"]) >= 1
        assert (await server.client.delete(f"/v1/jobs/{running}?grace_s=0")).status_code == 200


@pytest.mark.row("A28")
async def test_a_full_queue_by_bytes(start_server: StartServer) -> None:
    async with start_server(workers=1, queue_bytes_max=1000) as server:
        running = await server.submit("spin")
        await server.read(running, until="started")
        answer = await server.client.post("/v1/jobs", json={"type": "echo", "input": {"text": "x" * 2000}})
        problem_of(answer, 429, "queue_full")
        assert "retry-after" in answer.headers
        await server.submit("echo", text="small")


@pytest.mark.row("B20")
@pytest.mark.row("C10")
async def test_a_job_that_nobody_reads_is_neither_lost_nor_immortal(server: Server) -> None:
    unread = await server.submit("count", n=3)
    result = await server.client.get(f"/v1/jobs/{unread}/result", params={"wait_s": 60})
    assert (result.status_code, result.json()) == (200, {"tokens": 3})
    assert (await server.read(unread)).tokens == [" 0", " 1", " 2"]
    endless = await server.submit("spin", members={"limits": {"run_s": 0.2, "grace_s": 0}})
    assert (await server.record(endless, wait_s=60))["error"]["code"] == "timeout.run"


async def test_a_large_input_is_checked_and_arrives_whole(server: Server) -> None:
    text = "ä\u2028" * 50_000
    job_id = await server.submit("echo", text=text)
    result = await server.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": 60})
    assert result.json()["text"] == text
    wrong = {"type": "say", "input": {"values": [5] * 50_000}}
    answer = await server.client.post("/v1/jobs", json=wrong)
    assert len(problem_of(answer, 422, "invalid")["faults"]) == 100


# ── the same again ──


@pytest.mark.own_server
async def test_the_same_key_and_body_have_the_first_answer_again(server: Server) -> None:
    key = {"idempotency-key": '"order-7"'}
    body = {"type": "count", "input": {"n": 3}}
    first = await server.client.post("/v1/jobs", json=body, headers=key)
    assert first.status_code == 202 and "idempotent-replayed" not in first.headers
    await server.record(first.json()["job_id"], wait_s=60)
    again = await server.client.post("/v1/jobs", json=body, headers=key)
    assert again.status_code == 202 and again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content and again.headers["location"] == first.headers["location"]
    assert again.headers["x-correlation-id"] == first.headers["x-correlation-id"]
    waited = await server.client.post("/v1/jobs", json=body, headers=key | {"prefer": "wait=60"})
    assert (waited.status_code, waited.json()["state"]) == (200, "completed")
    assert waited.json()["job_id"] == first.json()["job_id"] and waited.headers["idempotent-replayed"] == "true"
    assert len((await server.client.get("/v1/jobs")).json()["jobs"]) == 1
    other = await server.client.post("/v1/jobs", json=body)
    assert other.json()["job_id"] != first.json()["job_id"]


async def test_the_same_key_for_another_body_is_a_conflict(server: Server) -> None:
    key = {"idempotency-key": "order-8"}
    job_id = (await server.client.post("/v1/jobs", json={"type": "echo"}, headers=key)).json()["job_id"]
    for body in ({"type": "echo", "input": {"number": 1}}, {"type": "echo", "priority": 1}, {"operation": "echo"}):
        problem = problem_of(await server.client.post("/v1/jobs", json=body, headers=key), 422, "idempotency_conflict")
        assert problem["job_id"] == job_id


async def test_a_request_that_was_refused_leaves_its_key_free(server: Server) -> None:
    key = {"idempotency-key": "order-9"}
    problem_of(await server.client.post("/v1/jobs", json={"type": "count"}, headers=key), 422, "invalid")
    answer = await server.client.post("/v1/jobs", json={"type": "count", "input": {"n": 1}}, headers=key)
    assert answer.status_code == 202


async def test_keys_of_two_callers_are_two(start_server: StartServer) -> None:
    keys = (ApiKey("a", "submit", "a" * 16), ApiKey("b", "submit", "b" * 16))
    async with start_server(http=HttpSettings(keys=keys)) as server:
        ids = set()
        for key in keys:
            headers = {"authorization": f"Bearer {key.key}", "idempotency-key": "order-10"}
            answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=headers)
            ids.add(answer.json()["job_id"])
        assert len(ids) == 2


@cases("value", ["", "two words", "x" * 256, "\xe4"])
async def test_an_idempotency_key_that_is_none(server: Server, value: str) -> None:
    headers = {"idempotency-key": value.encode("latin-1")}
    answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=headers)
    assert problem_of(answer, 422, "invalid")["faults"][0]["in"] == "header"


# ── whose request it was ──


@pytest.mark.row("A26")
@pytest.mark.parametrize("header", ["X-Correlation-Id", "X-Request-Id"])
async def test_a_correlation_id_goes_with_the_job(server: Server, header: str) -> None:
    value = "trace/7:a=b+c.d_e-f"
    answer = await server.client.post("/v1/jobs", json={"type": "environment"}, headers={header: value})
    assert answer.headers["x-correlation-id"] == value == answer.json()["correlation_id"]
    seen = await server.read(answer.json()["job_id"])
    assert seen.events[0].json()["correlation_id"] == value
    record = await server.record(answer.json()["job_id"])
    assert record["correlation_id"] == value and record["result"] == value


@pytest.mark.row("A26")
async def test_without_a_correlation_id_one_is_made_up(server: Server) -> None:
    answers = [await server.client.post("/v1/jobs", json={"type": "echo"}) for _ in range(2)]
    ids = {answer.headers["x-correlation-id"] for answer in answers}
    assert len(ids) == 2 and ids == {answer.json()["correlation_id"] for answer in answers}


@pytest.mark.row("A26")
async def test_a_refusal_has_the_correlation_id_too(server: Server) -> None:
    headers = {"x-correlation-id": "trace-8"}
    for body in ({"type": "nope"}, {"type": "count"}, {"type": "count", "speed": 1}):
        answer = await server.client.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code in (404, 422) and answer.headers["x-correlation-id"] == "trace-8"


@pytest.mark.row("A26")
@cases("value", ["", "two words", "x" * 129, "\xe4", "a\tb", "{}"])
async def test_a_correlation_id_that_is_none(server: Server, value: str) -> None:
    for name in ("x-correlation-id", "x-request-id"):
        headers = {name: value.encode("latin-1")}
        answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=headers)
        assert problem_of(answer, 422, "invalid")["faults"][0]["pointer"] == f"/{name}"


# ── waiting for the end ──


async def test_a_submission_that_waits_has_the_whole_record(server: Server) -> None:
    answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers={"prefer": "wait=60"})
    assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=60"
    assert answer.json()["state"] == "completed" and answer.json()["result"]["mode"] == "plain"
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['job_id']}" and answer.json()["stream_url"]
    failed = await server.client.post("/v1/jobs", json={"type": "fails"}, headers={"prefer": "wait=60"})
    assert (failed.status_code, failed.json()["state"]) == (200, "failed")  # the server did not fail


@cases(
    ("prefer", "applied"),
    [
        *(("respond-async", "respond-async"), ("wait=0", "wait=0"), ("respond-async, wait=0", "wait=0")),
        *(("", ""), ("wait=x", ""), ("handling=strict", "")),
    ],
)
async def test_a_submission_that_does_not_wait(server: Server, prefer: str, applied: str) -> None:
    answer = await server.client.post("/v1/jobs", json={"type": "spin"}, headers={"prefer": prefer})
    assert answer.status_code == 202 and answer.headers.get("preference-applied", "") == applied


async def test_a_reader_of_the_record_waits_for_the_end(server: Server) -> None:
    ended = await server.submit("echo")
    answer = await server.client.get(f"/v1/jobs/{ended}", headers={"prefer": "wait=60"})
    assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=60"
    assert answer.json()["state"] == "completed"
    endless = await server.submit("spin")
    for prefer, applied in (("wait=1", "wait=1"), ("respond-async", "respond-async"), ("", "")):
        answer = await server.client.get(f"/v1/jobs/{endless}", headers={"prefer": prefer})
        assert answer.status_code == 200 and answer.headers.get("preference-applied", "") == applied
        assert answer.json()["state"] in ("queued", "running")
    unknown = await server.client.get("/v1/jobs/job-none", headers={"prefer": "wait=60"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_job")


async def test_a_wait_is_capped(server: Server) -> None:
    waiting = {"prefer": "wait=9999999999999"}
    answer = await server.client.post("/v1/jobs", json={"type": "echo"}, headers=waiting)
    assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=60"
    slow = await server.client.post("/v1/jobs", json={"type": "spin"}, headers={"prefer": "respond-async, wait=1"})
    assert slow.status_code == 202 and slow.json()["state"] in ("queued", "running")


@pytest.mark.row("A4")
async def test_a_million_faults_are_not_all_told(server: Server) -> None:
    body = {"type": "echo"} | {f"unknown{number}": 1 for number in range(10_000)}
    problem = problem_of(await server.client.post("/v1/jobs", json=body), 422, "invalid")
    assert len(problem["faults"]) == 100 and "100 or more faults" in problem["detail"]
