"""Which call is sent once more, and when."""

from __future__ import annotations

import itertools
import time
from typing import Any

import httpx
import pytest

from killable.api.client.errors import Unreachable
from killable.api.client.http_call import HttpCall
from killable.api.client.job_calls import JobCalls
from killable.api.client.retries import RETRY_S_MAX, Flow, Pause, Requester
from killable.api.client.server_answers import Server
from killable.api.client.submission import PendingSubmission, Submitting
from killable.workers.errors import KillableError, Refused

SERVER = Server.at("http://here", uds=None, api_key=None, headers=None, connect_s=5, answer_s=30)


def test_a_call_that_was_held_for_long_is_sent_again_when_its_connection_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time counts from the first failure: a proxy that cuts what takes a minute would end every wait."""
    call = HttpCall("GET", "/v1/jobs/job-1/result", hold_s=25.0)
    flow = Requester(SERVER).ask(call)
    assert next(flow) is call
    later = time.monotonic() + 3 * RETRY_S_MAX
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", itertools.count(later, 0.001).__next__)
        assert isinstance(flow.throw(Unreachable("cut off")), Pause)
        assert next(flow) is call
        patched.setattr(time, "monotonic", itertools.count(later + 2 * RETRY_S_MAX, 0.001).__next__)
        with pytest.raises(Unreachable):
            flow.throw(Unreachable("cut off again"))


CONNECTIONS = Refused("The server has 256 connections", code="too_many_connections", status=503)


LOST = SERVER.unreachable(httpx.ReadError("reset"))


def carried_out(flow: Flow[Any], *outcomes: KillableError | httpx.Response) -> Any:
    """Return what a flow returns to which these come, one for each sending."""
    arriving = iter(outcomes)
    step = next(flow)
    try:
        while True:
            step = flow.send(None if isinstance(step, Pause) else next(arriving))
    except StopIteration as end:
        return end.value


def submission() -> PendingSubmission:
    return PendingSubmission.of("tick", {"text": "abc"}, idempotency_key="mine")


def submitting(*outcomes: KillableError | httpx.Response) -> Any:
    return carried_out(Submitting(Requester(SERVER)).submit(submission()), *outcomes)


def test_an_answer_from_before_the_request_was_looked_at_is_no_word_of_an_earlier_sending() -> None:
    with pytest.raises(Unreachable) as unknown:
        submitting(Unreachable("the connection broke"), CONNECTIONS, CONNECTIONS)
    assert unknown.value.idempotency_key == "mine"
    assert "connection broke" in str(unknown.value) and "'mine'" in str(unknown.value)
    with pytest.raises(Refused) as refused:
        submitting(CONNECTIONS, CONNECTIONS, CONNECTIONS)
    assert refused.value.code == "too_many_connections"


def test_a_server_that_is_gone_after_it_had_taken_the_request_may_have_started_the_job() -> None:
    gone = SERVER.unreachable(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable) as unknown:
        submitting(LOST, gone, gone)
    assert unknown.value.idempotency_key == "mine"
    with pytest.raises(Unreachable) as absent:
        submitting(gone, gone, gone)
    assert "idempotency_key" not in absent.value.facts


def test_a_keyed_call_that_met_too_many_connections_is_sent_again() -> None:
    job = submitting(CONNECTIONS, httpx.Response(202, json={"job_id": "job-1"}))
    assert isinstance(job, JobCalls) and job.id == "job-1"


def test_what_cannot_be_undone_for_want_of_a_connection_is_not_called_undone() -> None:
    with pytest.raises(Unreachable, match="not known"):
        carried_out(Submitting(Requester(SERVER, retries=0)).undo(submission(), "left"), CONNECTIONS)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    type = f"urn:killable:problem:{code}"
    return httpx.Response(status, json={"type": type, "code": code, "title": code}, headers=headers)


EXPIRED = problem(401, "unauthorized")
RATE = problem(429, "too_many_submissions", **{"retry-after": "1"})
ACCEPTED = httpx.Response(202, json={"job_id": "job-1"})


def test_a_refusal_that_did_not_look_for_the_key_is_no_word_of_an_earlier_sending() -> None:
    for refusals in ((EXPIRED,), (problem(404, "unknown_job_type"),), (RATE, RATE)):
        with pytest.raises(Unreachable) as unknown:
            submitting(LOST, *refusals)
        assert unknown.value.idempotency_key == "mine"
        with pytest.raises(Refused):
            submitting(refusals[0])
    with pytest.raises(Unreachable) as unknown:
        submitting(LOST, httpx.Response(404, html="<p>a proxy whose server is gone</p>"))
    assert unknown.value.idempotency_key == "mine"
    assert submitting(LOST, RATE, ACCEPTED).id == "job-1"
    with pytest.raises(Refused) as full:
        submitting(LOST, problem(429, "queue_full"))
    assert full.value.code == "queue_full"


def test_what_is_undone_is_asked_for_until_a_server_has_looked_for_its_key() -> None:
    ended = httpx.Response(200, json={"job_id": "job-1", "status": "cancelled", "certificate": {}})
    undone = carried_out(Submitting(Requester(SERVER)).undo(submission(), "left"), RATE, ACCEPTED, ended)
    assert undone.job_id == "job-1"
    for refusals in ((RATE, RATE, RATE), (EXPIRED,)):
        with pytest.raises(Unreachable, match="not known"):
            carried_out(Submitting(Requester(SERVER)).undo(submission(), "left"), *refusals)
    full = problem(429, "tenant_queue_full")
    assert carried_out(Submitting(Requester(SERVER)).undo(submission(), "left"), full) is None


def test_another_server_at_the_address_has_started_nothing() -> None:
    for status, may_have in ((404, False), (200, False), (502, True)):
        asking = Requester(SERVER, retries=0)
        with pytest.raises(Unreachable) as wrong:
            carried_out(Submitting(asking).submit(submission()), httpx.Response(status, html="<p>hello</p>"))
        assert ("idempotency_key" in wrong.value.facts) is may_have, wrong.value


def test_a_run_that_has_cancelled_its_job_gives_no_advice_to_ask_for_it_again() -> None:
    """It does where it could not."""
    asking = Requester(SERVER, retries=0)
    accepted = httpx.Response(202, json={"job_id": "job-1"})
    ended = httpx.Response(200, json={"job_id": "job-1", "status": "cancelled", "certificate": {}})
    with pytest.raises(Unreachable) as cancelled:
        carried_out(Submitting(asking).run(submission(), None), LOST, accepted, ended)
    assert "idempotency_key" not in cancelled.value.facts
    with pytest.raises(Unreachable) as unknown:
        carried_out(Submitting(asking).run(submission(), None), LOST, LOST)
    assert unknown.value.idempotency_key == "mine"


def test_what_only_reads_says_how_it_ended_last() -> None:
    gone = SERVER.unreachable(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable) as error:
        carried_out(Requester(SERVER).ask(HttpCall("GET", "/v1/jobs/job-1")), LOST, gone, gone)
    assert error.value is gone
