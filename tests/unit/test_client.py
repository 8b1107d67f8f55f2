"""The client against a real HTTP server that says exactly what a test wants: one suite over Client and AsyncClient."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.blocking_client import MakeClient, OneClient
from support.scripted_server import ID, PATH, Answer, Script, as_json, event, events, problem, terminal

from killable.api.client import http_call, job_calls, submission
from killable.api.client.client import Client, NotEnded, Unreachable
from killable.workers.error_classes import WorkerCrashed
from killable.workers.errors import JobTimedOut, KillableError, Refused

DEAD = as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.0}})

# ── submitting ──


def test_nodes_are_sent_only_if_they_are_given(script: Script, client: OneClient) -> None:
    """Servers before them refuse members that they do not know."""
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202), as_json({"job_id": ID}, 202))
    client.submit("split", nodes={"zone": "in(a,b)"})
    client.submit("split")
    first, second = script.asked
    assert first.body["nodes"] == {"zone": "in(a,b)"} and "nodes" not in second.body


@pytest.mark.row("E1")
@pytest.mark.row("E2")
def test_submit_sends_the_request_and_knows_the_id_at_once(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID, "state": "queued"}, 202))
    job = client.submit("split", {"text": "x"}, limits={"run_s": 60}, tags={"team": "search"}, priority=2)
    assert (job.id, repr(job)) == (ID, f"<Job {ID}>")
    assert job.accepted == {"job_id": ID, "state": "queued"}
    assert script.asked[0].body == {
        "type": "split",
        "input": {"text": "x"},
        "limits": {"run_s": 60},
        "tags": {"team": "search"},
        "priority": 2,
        "stop_when_client_leaves": False,
    }


def test_limits_may_be_text_and_those_of_a_newer_server_are_its_own(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID, "state": "queued"}, 202))
    operations = {"load": "20m", "infer": None}
    limits = {"run_s": "1m30s", "memory_bytes": "2GiB", "queue_s": None, "operation_s": operations, "gpu_s": "1m"}
    client.submit("split", limits=limits)
    in_numbers = {"run_s": 90, "memory_bytes": 2 << 30, "operation_s": {"load": 1200, "infer": None}}
    assert script.asked[0].body["limits"] == limits | in_numbers
    with pytest.raises(Refused, match="run_s: expected seconds"):
        client.submit("split", limits={"run_s": "5 parsecs"})
    assert len(script.asked) == 1


@pytest.mark.row("C8")
def test_a_submission_says_with_each_sending_what_is_left_of_its_callers_time(
    script: Script, client: OneClient
) -> None:
    accepted = as_json({"job_id": ID, "state": "queued"}, 202)
    script.on("POST", "/v1/jobs", problem(429, "queue_full", "the queue is full"), accepted)
    client.submit("split", within_s=60, wait_for_room_s=30)
    first, second = (float(request.headers["x-request-timeout"]) for request in script.asked)
    assert 50 < second < first <= 60
    script.on("POST", "/v1/jobs", problem(429, "queue_full", "the queue is full"))
    with pytest.raises(Refused) as caught:
        client.submit("split", within_s=0.01, wait_for_room_s=30)
    assert caught.value.code == "queue_full", "nobody asks longer than its answer is of use"


@pytest.mark.row("E9")
def test_a_problem_becomes_its_typed_error_with_every_fact(script: Script, client: OneClient) -> None:
    faults = [{"in": "body", "pointer": "/input/n", "message": "is required"}]
    script.on("POST", "/v1/jobs", problem(422, "invalid", "body /input/n: is required", faults=faults))
    with pytest.raises(Refused) as caught:
        client.submit("split")
    assert (caught.value.code, caught.value.message) == ("invalid", "body /input/n: is required")
    assert caught.value.facts == {"faults": faults, "status": 422}


def test_a_code_of_a_newer_server_is_an_error_too(script: Script, client: OneClient) -> None:
    script.on("GET", PATH, problem(418, "teapot", "I am one", message="a fact of that name"))
    with pytest.raises(Refused, match="I am one") as caught:
        client.job(ID).record()
    assert caught.value.code == "teapot"


def test_a_request_that_is_refused_with_a_code_of_an_ending_is_no_error_of_a_job(
    script: Script, client: OneClient
) -> None:
    script.on("GET", PATH, problem(422, "input.invalid", "the check of the input took too long"))
    with pytest.raises(Refused, match="took too long") as caught:
        client.job(ID).record()
    assert caught.value.code == "input.invalid"


@pytest.mark.parametrize("jobs", ['"none"', '["job-1"]', "null"])
def test_a_list_that_has_no_records_is_no_killable_servers(script: Script, client: OneClient, jobs: str) -> None:
    script.on("GET", "/v1/jobs", Answer(200, b'{"jobs":%s}' % jobs.encode()))
    with pytest.raises(Unreachable, match="not an answer of a killable server"):
        list(client.jobs())


@pytest.mark.parametrize(
    "answer",
    [Answer(502, b"<html>Bad Gateway</html>", "text/html"), Answer(200, b"[]"), Answer(404, b'{"detail":"Not Found"}')],
)
def test_an_answer_that_is_no_killable_servers_says_so(script: Script, client: OneClient, answer: Answer) -> None:
    script.on("GET", PATH, answer)
    with pytest.raises(Unreachable, match=f"answered {answer.status}"):
        client.job(ID).record()


@pytest.mark.row("E10")
def test_an_unreachable_server_is_named_with_the_reason() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match="connection refused; is `killable serve` running there") as caught:
            client.workers()
        with pytest.raises(Unreachable):
            list(client.job(ID))
    assert caught.value.exit_code == 69
    assert caught.value.retryable


@pytest.mark.row("E11")
def test_a_client_of_ones_own_stays_ones_own(script: Script) -> None:
    script.on("GET", "/v1/workers", as_json({"workers": []}))
    with httpx.Client(headers={"X-Mine": "1"}) as http:
        with Client(script.url, http=http, api_key="k") as client:
            assert client.workers() == []
        assert not http.is_closed
    assert (script.asked[0].headers["x-mine"], script.asked[0].headers["authorization"]) == ("1", "Bearer k")


def test_the_environment_names_server_and_key(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.on("GET", "/v1/workers", as_json({"workers": []}))
    monkeypatch.setenv("KILLABLE_URL", script.url + "/")
    monkeypatch.setenv("KILLABLE_API_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # not for loopback
    with Client() as client:
        client.workers()
    assert script.asked[0].headers["authorization"] == "Bearer secret"


def test_listing_follows_the_cursor(script: Script, client: OneClient) -> None:
    pages = ({"jobs": [{"job_id": "a"}], "next_cursor": "7"}, {"jobs": [{"job_id": "b"}], "next_cursor": None})
    script.on("GET", "/v1/jobs", *map(as_json, pages))
    assert [record["job_id"] for record in client.jobs(state="active", tag="team:search")] == ["a", "b"]
    assert [request.query for request in script.asked] == [
        "state=active&tag=team%3Asearch&limit=200",
        "state=active&tag=team%3Asearch&limit=200&cursor=7",
    ]


def test_an_id_cannot_leave_its_place_in_the_address(script: Script, client: OneClient) -> None:
    with pytest.raises(Refused):
        client.job("../workers?x").record()
    assert script.asked[0].path == "/v1/jobs/..%2Fworkers%3Fx"


# ── result ──


def test_a_result_is_waited_for(script: Script, client: OneClient) -> None:
    still = as_json({"job_id": ID, "state": "running"}, 202)
    script.on("GET", f"{PATH}/result", still, still, as_json({"tokens": 3}))
    assert client.job(ID).result() == {"tokens": 3}
    assert {request.query for request in script.asked} == {"wait_s=25.0"}


def test_a_result_of_bytes_is_bytes_and_none_is_none(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/result", Answer(200, b"\x00\x01", "application/octet-stream"), as_json(None))
    assert client.job(ID).result() == b"\x00\x01"
    assert client.job(ID).result() is None


def test_a_wait_that_is_over_leaves_the_job_alone(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202))
    with pytest.raises(NotEnded, match="is running") as caught:
        client.job(ID).result(wait_s=0)
    assert (caught.value.exit_code, caught.value.record["state"]) == (75, "running")
    assert isinstance(caught.value, TimeoutError)
    assert not script.asked_for("DELETE", PATH)


@pytest.mark.row("E3")
def test_a_job_without_result_raises_how_it_ended(script: Script, client: OneClient) -> None:
    record = {"job_id": ID, "state": "failed", "error": {"code": "exit", "message": "it left", "exit_code": 3}}
    script.on("GET", f"{PATH}/result", problem(409, "no_result", job=record | {"certificate": None, "partial": 1}))
    with pytest.raises(WorkerCrashed, match="it left") as caught:
        client.job(ID).result()
    assert (caught.value.exit_code, caught.value.partial) == (3, 1)


# ── cancelling ──


@pytest.mark.row("E4")
def test_cancel_returns_the_ending_when_the_job_is_dead(script: Script, client: OneClient) -> None:
    so_far = as_json({"job_id": ID, "status": "stopping", "certificate": {"requested": 0.0}}, 202)
    dead = as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.5}})
    script.on("DELETE", PATH, so_far, dead)
    ending = client.job(ID).cancel(grace_s=0, reason="too slow")
    assert (ending.state, ending.certificate, ending.had_ended) == ("cancelled", {"tree_empty": 1.5}, False)
    assert script.asked[0].query == "grace_s=0&reason=too+slow"
    assert script.asked[0].headers["prefer"] == "wait=25"


def test_cancel_may_leave_before_the_job_is_dead(script: Script, client: OneClient) -> None:
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "stopping", "certificate": {}}, 202))
    ending = client.job(ID).cancel(wait_s=0)
    assert (ending.state, ending.is_over) == ("stopping", False)
    assert script.asked[0].headers["prefer"] == "wait=0"


@pytest.mark.row("E4")
def test_cancel_of_an_ended_job_is_no_error(script: Script, client: OneClient) -> None:
    record = {"job_id": ID, "state": "completed", "certificate": {"exited": 0.0}, "error": None}
    script.on("DELETE", PATH, problem(409, "already_ended", job=record))
    ending = client.job(ID).cancel()
    assert (ending.state, ending.had_ended, ending.certificate) == ("completed", True, {"exited": 0.0})
    with pytest.raises(Refused):
        client.job("job-other").cancel()


def test_leaving_the_block_cancels_what_still_runs(script: Script, client: OneClient) -> None:
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "cancelled", "certificate": {}}))
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), terminal(1, "completed")))
    with client.job(ID) as job:
        assert list(job) == ["a"]
    assert not script.asked_for("DELETE", PATH)
    with client.job(ID) as job:
        next(iter(job))
    assert len(script.asked_for("DELETE", PATH)) == 1


def test_what_is_known_to_be_over_is_not_cancelled_again(script: Script, client: OneClient) -> None:
    over = {"job_id": ID, "state": "failed", "error": {"code": "exit", "message": "it left"}}
    script.on("DELETE", PATH, DEAD, problem(409, "already_ended", job=over))
    script.on("GET", f"{PATH}/result", problem(409, "no_result", job=over))
    for number in (1, 2):
        with client.job(ID) as job:
            assert job.cancel().had_ended is (number == 2)
        assert len(script.asked_for("DELETE", PATH)) == number
    with pytest.raises(WorkerCrashed), client.job(ID) as job:
        job.result()
    assert len(script.asked_for("DELETE", PATH)) == 2


def test_an_error_in_the_block_is_not_hidden_by_a_server_that_is_gone(client: OneClient, script: Script) -> None:
    script.on("DELETE", PATH, Answer(500, b"", "text/plain"))
    with pytest.raises(ZeroDivisionError), client.job(ID):
        raise ZeroDivisionError
    with pytest.raises(Unreachable), client.job(ID):
        pass


# ── run ──


def test_run_returns_the_result(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json(42))
    assert client.run("add", {"a": 40}) == 42
    assert not script.asked_for("DELETE", PATH)


@pytest.mark.row("C7")
def test_the_timeout_of_run_cancels_the_remote_job(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202))
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "cancelled", "certificate": {"tree_empty": 1.0}}))
    with pytest.raises(JobTimedOut, match="is dead") as caught:
        client.run("spin", timeout_s=0)
    assert (caught.value.code, caught.value.certificate) == ("timeout.run", {"tree_empty": 1.0})
    assert len(script.asked_for("DELETE", PATH)) == 1


def test_a_job_that_wins_the_race_against_runs_timeout_has_its_result(
    script: Script, client: OneClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_call, "ANSWER_S_MIN", 30.0)
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202), as_json(42))
    script.on("DELETE", PATH, problem(409, "already_ended", job={"job_id": ID, "state": "completed"}))
    assert client.run("add", timeout_s=0) == 42


# ── who asks ──


SECRET = "sk-not-to-be-seen"


def test_the_key_is_sent_and_never_shown(script: Script, make_client: MakeClient) -> None:
    client = make_client(api_key=f" {SECRET}\n", headers={"X-Team": "search"})
    script.on("GET", "/v1/info", as_json({"version": "1"}), problem(401, "unauthorized", "A valid API key is needed"))
    assert client.info() == {"version": "1"}
    assert script.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    assert script.asked[0].headers["x-team"] == "search"
    with pytest.raises(Refused) as caught:
        client.info()
    shown = [repr(client), repr(client.job(ID)), str(caught.value), repr(caught.value.facts), repr(client.__dict__)]
    assert SECRET not in " ".join(shown)


def test_a_key_that_no_header_carries_is_refused_without_showing_it(make_client: MakeClient) -> None:
    with pytest.raises(Refused, match="the API key has a character") as caught:
        make_client(api_key=f"{SECRET}\nX-Evil: 1")
    assert SECRET not in str(caught.value) + repr(caught.value.facts)
    with pytest.raises(Refused, match="the X-Correlation-Id has a character"):
        make_client().submit("split", correlation_id="é")


def test_a_password_in_the_address_is_not_shown(make_client: MakeClient) -> None:
    client = make_client("http://me:hidden@127.0.0.1:1", retries=0)
    assert repr(client).endswith("Client http://127.0.0.1:1>")
    with pytest.raises(Unreachable) as caught:
        client.info()
    assert "hidden" not in str(caught.value) + repr(caught.value.facts)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "://", "http://[::1"])
def test_what_is_no_address_says_so_at_once(make_client: MakeClient, url: str) -> None:
    with pytest.raises(Unreachable, match="is not a valid address"):
        make_client(url)


def test_a_closed_client_says_so(make_client: MakeClient) -> None:
    client = make_client()
    job = client.job(ID)
    (client.close if isinstance(client, Client) else client.aclose)()
    for ask in (client.info, job.record, lambda: list(job)):
        with pytest.raises(Refused, match="is closed"):
            ask()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore leaves the socket to the GC
def test_a_unix_socket_by_either_spelling(make_client: MakeClient, tmp_path: Path) -> None:
    for client in (make_client(f"unix:{tmp_path}/s"), make_client(None, uds=f"{tmp_path}/s")):
        with pytest.raises(Unreachable, match=f"cannot reach unix:{tmp_path}/s: no such file or directory"):
            client.info()


# ── once more ──


GONE = Answer(drop=True)
BUSY = Answer(503, b"", "text/plain", headers={"Retry-After": "0"})


@pytest.mark.parametrize("broken", [GONE, Answer(reset=True), BUSY, problem(429, "queue_full", retryable=True)])
def test_what_is_safe_is_asked_again(script: Script, client: OneClient, broken: Answer) -> None:
    script.on("GET", PATH, broken, broken, as_json({"job_id": ID}))
    assert client.job(ID).record() == {"job_id": ID}
    script.on("DELETE", PATH, broken, as_json({"job_id": ID, "status": "cancelled", "certificate": {}}))
    assert client.job(ID).cancel().state == "cancelled"


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_not_more_often_than_was_said(script: Script, make_client: MakeClient, retries: int) -> None:
    script.on("GET", PATH, BUSY)
    with pytest.raises(Unreachable, match="answered 503"):
        make_client(retries=retries).job(ID).record()
    assert len(script.asked) == 1 + retries


def test_a_server_that_asks_for_too_much_patience_gets_none(script: Script, client: OneClient, tmp_path: Path) -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value, least in (("3600", 3600), (in_an_hour, 3500)):
        script.on("GET", PATH, Answer(503, b"", "text/plain", headers={"Retry-After": value}))
        with pytest.raises(Unreachable) as caught:
            client.job(ID).record()
        assert caught.value.retry_after_s >= least
    assert len(script.asked) == 2
    for value in ("86400", "9" * 400):  # no sleep takes a time with so many digits
        script.on("GET", f"{PATH}/files/f", Answer(503, b"", "text/plain", headers={"Retry-After": value}))
        with pytest.raises(Unreachable) as caught:
            client.job(ID).download("f", tmp_path / "f")
        assert caught.value.retry_after_s == 86400


@pytest.mark.parametrize("status", [400, 404, 500, 501])
def test_an_answer_that_stays_the_same_is_not_asked_for_again(script: Script, client: OneClient, status: int) -> None:
    script.on("GET", PATH, problem(status, "internal"))
    with pytest.raises(KillableError):
        client.job(ID).record()
    assert len(script.asked) == 1


def test_a_submission_that_was_cut_off_is_sent_again_as_the_same_one(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", GONE, as_json({"job_id": ID}, 202))
    assert client.submit("split", {"text": "x"}).id == ID
    first, second = script.asked
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] != ""
    client.submit("split", {"text": "x"})
    assert script.asked[2].headers["idempotency-key"] != first.headers["idempotency-key"]


@pytest.mark.parametrize(("status", "code"), [(429, "queue_full"), (503, "draining")])
def test_a_submission_that_is_refused_for_now_is_the_callers_to_repeat(
    script: Script, client: OneClient, status: int, code: str
) -> None:
    script.on("POST", "/v1/jobs", problem(status, code))
    with pytest.raises(Refused) as caught:
        client.submit("split")
    assert (caught.value.code, caught.value.retryable, len(script.asked)) == (code, True, 1)


def test_a_full_queue_is_asked_again_where_that_was_wanted(script: Script, make_client: MakeClient) -> None:
    full = problem(429, "queue_full")
    full.headers["Retry-After"] = "0"
    client = make_client(retries=0)
    script.on("POST", "/v1/jobs", *[full] * 9, as_json({"job_id": ID}, 202))
    assert client.submit("split", wait_for_room_s=30).id == ID
    assert len({request.headers["idempotency-key"] for request in script.asked}) == 1
    full.headers["Retry-After"] = "60"
    script.on("POST", "/v1/jobs", full)
    with pytest.raises(Refused):
        client.submit("split", wait_for_room_s=30)
    assert len(script.asked) == 11


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.cancel_matching(type="split"),
        lambda client: client.kill_worker("worker-1"),
        lambda client: client.shutdown(),
    ],
)
def test_what_could_do_harm_twice_is_not_sent_twice(
    script: Script, client: OneClient, ask: Callable[[OneClient], object]
) -> None:
    for method, path in (("POST", "/v1/jobs/cancel"), ("DELETE", "/v1/workers/worker-1"), ("POST", "/v1/shutdown")):
        script.on(method, path, GONE)
    with pytest.raises(Unreachable, match="the request may have been processed"):
        ask(client)
    assert len(script.asked) == 1


# ── the other calls ──


def test_what_is_asked_of_a_server(script: Script, client: OneClient) -> None:
    calls: list[tuple[str, str, str, Callable[[], object], Any]] = [
        ("GET", "/v1/workers/w%2F1", "", lambda: client.worker("w/1"), None),
        ("DELETE", "/v1/workers/w1", "reason=old", lambda: client.kill_worker("w1", "old"), None),
        ("POST", "/v1/drain", "deadline_s=5", lambda: client.drain(5), None),
        ("POST", "/v1/drain", "", client.drain, None),
        ("DELETE", "/v1/drain", "", client.undrain, None),
        ("POST", "/v1/nodes/a%2Fb/drain", "", lambda: client.drain_node("a/b"), None),
        ("DELETE", "/v1/nodes/a/drain", "", lambda: client.undrain_node("a"), None),
        ("GET", "/v1/drain", "", client.drained, None),
        ("POST", "/v1/shutdown", "deadline_s=0.0", client.shutdown, None),
        ("POST", "/v1/shutdown", "grace_s=1&deadline_s=2&reason=r", lambda: client.shutdown(1, 2, "r"), None),
        ("GET", "/v1/metrics", "", client.metrics, None),
        ("GET", "/v1/info", "", client.info, None),
        ("GET", "/readyz", "", client.ready, None),
        ("POST", "/v1/jobs/cancel", "", lambda: client.cancel_matching(tag="a:b"), {"tag": "a:b", "dry_run": False}),
        (
            "POST", "/v1/jobs/cancel", "",
            lambda: client.cancel_matching(type="t", state="queued", reason="r", grace_s=0, dry_run=True),
            {"type": "t", "state": "queued", "reason": "r", "grace_s": 0, "dry_run": True},
        ),
    ]  # fmt: skip
    for method, path, query, ask, body in calls:
        script.on(method, path, as_json({"answer": path}))
        assert ask() == {"answer": path}
        asked = script.asked[-1]
        assert (asked.method, asked.path, asked.query, asked.body) == (method, path, query, body)
    assert script.asked_for("DELETE", "/v1/workers/w1")[0].headers["prefer"] == "wait=25"
    assert script.asked_for("POST", "/v1/jobs/cancel")[0].headers["prefer"] == "wait=25"


def test_an_unready_server_is_not_asked_again(script: Script, client: OneClient) -> None:
    script.on("GET", "/readyz", problem(503, "draining", degraded=["draining"]))
    with pytest.raises(Refused) as caught:
        client.ready()
    assert (caught.value.code, caught.value.degraded, len(script.asked)) == ("draining", ["draining"], 1)


def test_output_and_exposition_are_passed_on_as_they_are(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/output", Answer(200, b"a\xff", "application/octet-stream"))
    script.on("GET", "/metrics", Answer(200, "killable_x 1\n# é\n".encode(), "text/plain; charset=utf-8"))
    assert client.job(ID).output() == b"a\xff"
    assert client.exposition() == "killable_x 1\n# é\n"


def test_a_submission_carries_keys_and_says_what_came_of_them(script: Script, client: OneClient) -> None:
    headers = {"Idempotent-Replayed": "true", "X-Correlation-Id": "trace-1"}
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202, headers=headers))
    job = client.submit("split", idempotency_key="mine", correlation_id="trace-1")
    assert (job.is_replay, job.correlation_id) == (True, "trace-1")
    asked = script.asked[0].headers
    assert (asked["idempotency-key"], asked["x-correlation-id"]) == ("mine", "trace-1")


def test_what_json_cannot_say_is_refused_before_anything_is_sent(script: Script, client: OneClient) -> None:
    for value in (float("nan"), object(), {1j}):
        with pytest.raises(Refused, match="JSON"):
            client.submit("split", {"text": value})
    assert script.asked == []
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    client.submit("split", {"text": "\ud800"})
    assert script.asked[0].body["input"] == {"text": "\ud800"}


def test_an_option_that_there_is_not_is_a_type_error(client: OneClient) -> None:
    with pytest.raises(TypeError, match="run_s"):
        client.submit("split", run_s=5)


# ── giving up ──


@pytest.mark.row("C7")
def test_a_submission_without_answer_is_found_by_its_key_and_cancelled(script: Script, client: OneClient) -> None:
    """The timeout of run covers the submission; the job that it may have started is not left behind."""
    script.on("POST", "/v1/jobs", Answer(gate=threading.Event()), as_json({"job_id": ID}, 202))
    script.on("DELETE", PATH, DEAD)
    with pytest.raises(JobTimedOut, match="was cancelled and is dead") as caught:
        client.run("spin", timeout_s=0.01)
    assert (caught.value.job_id, caught.value.by) == (ID, "client")
    first, second = script.asked_for("POST", "/v1/jobs")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert len(script.asked_for("DELETE", PATH)) == 1


@pytest.mark.row("C7")
def test_a_submission_that_turns_out_refused_has_started_nothing(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", Answer(gate=threading.Event()), problem(429, "queue_full"))
    with pytest.raises(JobTimedOut, match="nothing was started") as caught:
        client.run("spin", timeout_s=0.01)
    assert caught.value.job_id is None


@pytest.mark.row("C7")
def test_a_job_that_may_be_there_is_named_by_its_key(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", Answer(gate=threading.Event()), GONE)
    with pytest.raises(Unreachable, match="it is not known whether a job was started") as caught:
        client.run("spin", timeout_s=0.01)
    key = script.asked[0].headers["idempotency-key"]
    assert caught.value.idempotency_key == key
    assert key in str(caught.value)


@pytest.mark.row("C7")
def test_a_job_whose_server_falls_silent_is_cancelled(script: Script, make_client: MakeClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", GONE)
    script.on("DELETE", PATH, DEAD)
    with pytest.raises(Unreachable):
        make_client(retries=0).run("spin")
    assert len(script.asked_for("DELETE", PATH)) == 1


@pytest.mark.row("C7")
@pytest.mark.parametrize("timeout_s", [None, 0.0])
def test_a_job_that_its_leaving_caller_cannot_cancel_is_named(
    script: Script, make_client: MakeClient, timeout_s: float | None
) -> None:
    """With a journal the next server goes on with it."""
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", GONE)
    script.on("DELETE", PATH, GONE)
    with pytest.raises(Unreachable, match=f"{ID} was started and could not be cancelled") as caught:
        make_client(retries=0).run("spin", idempotency_key="mine", timeout_s=timeout_s)
    assert (caught.value.job_id, caught.value.idempotency_key) == (ID, "mine")


@pytest.mark.row("C7")
def test_a_job_that_will_not_die_in_time_is_told_so(
    script: Script, client: OneClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LEAVE_S", 0.0)
    monkeypatch.setattr(job_calls, "LEAVE_S", 0.0)
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", as_json({"job_id": ID, "state": "running"}, 202))
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "stopping", "certificate": {}}, 202))
    with pytest.raises(JobTimedOut, match="not yet dead after 0 s; the server continues to stop it"):
        client.run("spin", timeout_s=0)
    with pytest.raises(NotEnded, match="is being stopped"), client.job(ID):
        pass
    with pytest.raises(ZeroDivisionError), client.job(ID):
        raise ZeroDivisionError


@pytest.mark.row("E5")
@pytest.mark.parametrize("ask", ["run", "submit"])
def test_ctrl_c_during_the_submission_cancels_what_it_started(script: Script, client: OneClient, ask: str) -> None:
    interrupted = Answer(first=interrupt_main, gate=threading.Event())
    script.on("POST", "/v1/jobs", interrupted, as_json({"job_id": ID}, 202))
    script.on("DELETE", PATH, DEAD)
    with pytest.raises(KeyboardInterrupt):
        getattr(client, ask)("spin")
    first, second = script.asked_for("POST", "/v1/jobs")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert len(script.asked_for("DELETE", PATH)) == 1


def test_ctrl_c_leaves_a_job_that_the_caller_has_the_key_of(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", Answer(first=interrupt_main, gate=threading.Event()))
    with pytest.raises(KeyboardInterrupt):
        client.submit("spin", idempotency_key="mine")
    assert [request.method for request in script.asked] == ["POST"]


@pytest.mark.row("E5")
def test_ctrl_c_while_it_runs_cancels_the_job(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
    script.on("GET", f"{PATH}/result", Answer(first=interrupt_main, gate=threading.Event()))
    script.on("DELETE", PATH, DEAD)
    with pytest.raises(KeyboardInterrupt):
        client.run("spin")
    assert len(script.asked_for("DELETE", PATH)) == 1


def interrupt_main() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# ── many at once ──


def test_threads_share_a_client(script: Script) -> None:
    for number in range(8):
        path = f"/v1/jobs/job-{number}"
        token, end = event(0, "token", {"text": f"of {number}"}), terminal(1, "completed")
        script.on("GET", f"{path}/stream", events(token, end))
        script.on("GET", path, as_json({"job_id": f"job-{number}"}))

    def use(number: int) -> set[str]:
        job = client.job(f"job-{number}")
        return {*job, *(job.record()["job_id"] for _ in range(20))}

    with Client(script.url) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(use, range(8))) == [{f"of {number}", f"job-{number}"} for number in range(8)]
