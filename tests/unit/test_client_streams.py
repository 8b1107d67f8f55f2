"""Streams, read by the client: server-sent events however they are cut into bytes and connections."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8

import httpx
import pytest
from support.blocking_client import MakeClient, OneClient
from support.scripted_server import ID, PATH, Answer, Script, event, events, failed, problem, streaming, terminal

from killable.api.client.client import Unreachable
from killable.api.client.errors import Restarted
from killable.workers.error_classes import WorkerCrashed
from killable.workers.errors import JobCancelled, JobError, JobFailed, JobTimedOut, Refused

TEXTS = ["[DONE]", "data: [CANCELLED]\n\n", "çä🦀 \u2028\u0085", "\r\n", ""]
STREAM = (
    b"retry: 1000\n\n"
    + b": ping\n\n"
    + event(0, "started", {"pid": 1})
    + b"".join(
        f"id: {number}\nevent: token\ndata: {json.dumps({'text': text}, ensure_ascii=False)}\n\n".encode()
        for number, text in enumerate(TEXTS, 1)
    )
    + b'id: 6\nevent: token\ndata:{"value":\ndata: [1,\ndata:2]}\n\n'
    + b'unknown: field\nid: 7\nevent: token\ndata: {"base64": "AP8="}\n\n'
    + terminal(8, "completed")
    + b"data: [DONE]\n\n"
)
TOKENS = [*TEXTS, [1, 2], b"\x00\xff"]


@pytest.mark.row("E6")
@pytest.mark.row("E7")
@pytest.mark.row("E12")
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", BOM_UTF8], ids=["", "BOM"])
def test_tokens_are_the_same_wherever_the_bytes_are_split(
    make_client: MakeClient, line_end: bytes, start: bytes
) -> None:
    wire = start + STREAM.replace(b"\n", line_end)
    at = 0
    client = make_client(transport=httpx.MockTransport(lambda request: streaming(wire[:at], wire[at:])))
    for at in range(len(wire if not start else STREAM[:40]) + 1):  # behind its start it is the other case
        assert list(client.job(ID)) == TOKENS, f"split at byte {at}"


@pytest.mark.row("E6")
def test_the_tokens_are_the_same_byte_by_byte(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/stream", events(*(bytes([byte]) for byte in STREAM)))
    assert list(client.job(ID)) == TOKENS


@pytest.mark.row("E7")
def test_a_byte_order_mark_belongs_to_no_field(make_client: MakeClient) -> None:
    wire = BOM_UTF8 + event(0, "token", {"text": "\ufeffa"}) + terminal(1, "completed")
    client = make_client(transport=httpx.MockTransport(lambda request: streaming(wire)))
    assert list(client.job(ID)) == ["\ufeffa"]


@pytest.mark.row("E7")
def test_the_encoding_is_utf8_whatever_the_content_type_says(make_client: MakeClient) -> None:
    kind = "text/event-stream; charset=latin-1"
    client = make_client(transport=httpx.MockTransport(lambda request: streaming(STREAM, kind=kind)))
    assert list(client.job(ID)) == TOKENS


@pytest.mark.row("E7")
def test_what_is_no_event_of_the_job_is_passed_over(script: Script, client: OneClient) -> None:
    token = event(1, "token", {"text": "a"})
    script.on(
        "GET", f"{PATH}/stream",
        events(
            b'event: token\ndata: {"text": "before any id"}\n\n',
            b": only a comment\n\n\n\n", b"id: 0\n\n", b"data\n\n", b"id: 0\nevent: token\ndata:\n\n", token,
            b'event: token\ndata: {"text": "without an id of its own"}\n\n', b"retry: -1\n\nretry: soon\n\n",
            b"data: [DONE]\n\n", event(2, "of-tomorrow", {}), terminal(3, "completed"),
        ),
    )  # fmt: skip
    assert list(client.job(ID)) == ["a"]


@pytest.mark.row("E12")
@pytest.mark.parametrize(
    "text", ["[DONE]", "[CANCELLED]", "[ERROR] x", "data: [DONE]\n\n", "id: 9\n\n", "\ud800", "\r"]
)
def test_a_token_ends_no_stream(script: Script, client: OneClient, text: str) -> None:
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": text}), terminal(1, "completed")))
    assert list(client.job(ID)) == [text]


def test_events_have_ids_names_and_data(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/stream", events(event(4, "log", {"text": "x"}), terminal(5, "completed")))
    seen = list(client.job(ID).events(after=3))
    assert [(e.id, e.name, e.is_terminal) for e in seen] == [(4, "log", False), (5, "completed", True)]
    assert script.asked[0].headers["last-event-id"] == "3"


@pytest.mark.row("E3")
@pytest.mark.row("B3")
@pytest.mark.parametrize(
    ("state", "code", "kind"),
    [
        ("cancelled", "cancelled", JobCancelled),
        ("timed_out", "timeout.run", JobTimedOut),
        ("failed", "exception", JobFailed),
        ("failed", "crash", WorkerCrashed),
        ("failed", "limit.of.tomorrow", JobFailed),
    ],
)
def test_the_tokens_come_first_and_then_the_typed_error(
    script: Script, client: OneClient, state: str, code: str, kind: type[JobError]
) -> None:
    ending = failed(1, state, code, exit_code=3, type="ValueError")
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), ending))
    seen = []
    with pytest.raises(kind, match="because") as caught:
        for token in client.job(ID):
            seen.append(token)
    assert seen == ["a"]
    error = caught.value
    assert (error.code, error.job_id, error.exit_code, error.type) == (code, ID, 3, "ValueError")
    assert error.certificate == {"requested": 0.0}


@pytest.mark.row("E8")
@pytest.mark.parametrize("cut", [False, True])
def test_an_end_without_terminal_event_is_an_error(script: Script, client: OneClient, cut: bool) -> None:
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), cut=cut), events(cut=cut))
    seen = []
    with pytest.raises(WorkerCrashed, match="without its terminal event") as caught:
        for token in client.job(ID):
            seen.append(token)
    assert (seen, caught.value.code, caught.value.last_sequence) == (["a"], "supervisor_lost", 0)


@pytest.mark.row("E8")
def test_a_server_that_has_forgotten_the_job_meanwhile_is_a_lost_one(script: Script, client: OneClient) -> None:
    again = problem(404, "unknown_job")
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), cut=True), again)
    with pytest.raises(WorkerCrashed) as caught:
        list(client.job(ID))
    assert caught.value.code == "supervisor_lost"
    assert isinstance(caught.value.__cause__, Refused)


@pytest.mark.row("E13")
def test_a_broken_stream_is_taken_up_where_it_broke(script: Script, client: OneClient) -> None:
    one, two = event(0, "token", {"text": "a"}), event(1, "token", {"text": "b"})
    script.on(
        "GET", f"{PATH}/stream", events(one, two[:9], cut=True), events(two, cut=True), events(terminal(2, "completed"))
    )
    assert list(client.job(ID)) == ["a", "b"]
    assert [request.headers.get("last-event-id") for request in script.asked] == [None, "0", "1"]


def test_after_the_terminal_event_there_is_nothing(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/stream", Answer(204))
    assert list(client.job(ID).events(after=9)) == []


def test_an_unknown_job_has_no_stream(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/stream", problem(404, "unknown_job"))
    with pytest.raises(Refused) as caught:
        list(client.job(ID))
    assert caught.value.code == "unknown_job"


def test_a_204_is_no_end_for_a_reader_that_has_seen_none(script: Script, client: OneClient) -> None:
    script.on("GET", f"{PATH}/stream", Answer(204))
    with pytest.raises(Unreachable, match="answered 204"):
        list(client.job(ID))


@pytest.mark.row("E13")
@pytest.mark.row("E6")
def test_nothing_is_lost_or_doubled_wherever_the_stream_breaks(make_client: MakeClient) -> None:
    """Cut after every byte, in the middle of characters too, and taken up as the real server does."""
    stream = STREAM.replace(b"retry: 1000", b"retry: 0")
    starts = {int(found[1]): found.start() for found in re.finditer(rb"id: (\d+)\n", stream)}
    at, asked = 0, 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            return streaming(stream[:at], breaks=True)
        return streaming(stream[starts[int(request.headers.get("last-event-id", -1)) + 1] :])

    client = make_client(transport=httpx.MockTransport(answer))
    for at in range(len(b"retry: 0\n\n"), len(stream) + 1):
        asked = 0
        assert list(client.job(ID)) == TOKENS, f"cut at byte {at}"


@pytest.mark.row("E13")
def test_a_reset_connection_is_taken_up(script: Script, client: OneClient) -> None:
    one, two = event(0, "token", {"text": "a"}), event(1, "token", {"text": "b"})
    broken = Answer(200, [b"retry: 0\n\n", one, two[:20]], "text/event-stream", reset=True)
    script.on("GET", f"{PATH}/stream", broken, events(two, terminal(2, "completed")))
    assert list(client.job(ID)) == ["a", "b"]


@pytest.mark.row("E13")
def test_what_was_seen_is_not_given_again(script: Script, client: OneClient) -> None:
    one = b"retry: 0\n" + event(0, "token", {"text": "a"})
    script.on("GET", f"{PATH}/stream", events(one, cut=True), events(one, terminal(1, "completed")))
    assert list(client.job(ID)) == ["a"]


@pytest.mark.row("E13")
def test_a_stream_that_leaves_events_out_is_asked_again_and_then_an_error(script: Script, client: OneClient) -> None:
    one, three = b"retry: 0\n" + event(0, "token", {"text": "a"}), event(2, "token", {"text": "c"})
    script.on("GET", f"{PATH}/stream", events(one, three), events(three))
    with pytest.raises(WorkerCrashed) as caught:
        list(client.job(ID))
    assert caught.value.code == "supervisor_lost"
    assert "events 1 to 1 are missing" in str(caught.value.__cause__)


@pytest.mark.row("B16")
def test_a_job_that_goes_on_at_the_next_server_goes_on_in_its_stream(script: Script, client: OneClient) -> None:
    one = b"retry: 0\n" + event(0, "token", {"text": "a"})
    rest = event(70, "restored", {}), event(71, "token", {"text": "b"}), terminal(72, "completed")
    script.on("GET", f"{PATH}/stream", events(one, cut=True), events(*rest))
    assert [seen.id for seen in client.job(ID).events()] == [0, 70, 71, 72]


@pytest.mark.row("B16", "D25")
def test_who_reads_only_tokens_is_told_that_they_begin_again(script: Script, client: OneClient) -> None:
    one = b"retry: 0\n" + event(0, "token", {"text": "a"})
    rest = event(70, "restored", {}), event(71, "token", {"text": "b"}), terminal(72, "completed")
    script.on("GET", f"{PATH}/stream", events(one, cut=True), events(*rest))
    job, seen = client.job(ID), []
    with pytest.raises(Restarted) as caught:
        for token in job:
            seen.append(token)
    assert (seen, caught.value.first_id) == (["a"], 71)
    assert list(job) == ["b"]
    assert script.asked[-1].headers["last-event-id"] == "70"


@pytest.mark.row("B16")
@pytest.mark.parametrize("code", ["supervisor_lost", "node_lost"])
def test_what_a_dead_server_took_along_is_no_fault_of_the_stream(script: Script, client: OneClient, code: str) -> None:
    """The next one, from its journal, has the end of the job and none of its events."""
    one = b"retry: 0\n" + event(0, "token", {"text": "a"})
    script.on("GET", f"{PATH}/stream", events(one, cut=True), events(terminal(1 << 26, "failed", error={"code": code})))
    assert [seen.id for seen in client.job(ID).events()] == [0, 1 << 26]
    assert {request.headers.get("last-event-id") for request in script.asked[1:]} == {"0"}


@pytest.mark.row("E13")
@pytest.mark.parametrize("retries", [0, 1, 4])
def test_connections_that_bring_nothing_are_counted(script: Script, make_client: MakeClient, retries: int) -> None:
    one = b"retry: 0\n" + event(0, "token", {"text": "a"})
    script.on("GET", f"{PATH}/stream", events(one, cut=True), events(b": alive\n\n", cut=True))
    with pytest.raises(WorkerCrashed):
        list(make_client(retries=retries).job(ID))
    assert len(script.asked) == 1 + 1 + retries


def test_a_stream_that_a_busy_server_refuses_is_asked_for_again(script: Script, make_client: MakeClient) -> None:
    busy = Answer(503, b"", "text/plain", headers={"Retry-After": "0"})
    script.on("GET", f"{PATH}/stream", busy, events(terminal(0, "completed")))
    assert list(make_client().job(ID)) == []
    script.on("GET", f"{PATH}/stream", busy)
    with pytest.raises(Unreachable, match="answered 503"):
        list(make_client(retries=0).job(ID))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"{}"),
        events(b"id: one\nevent: token\ndata: {}\n\n"),
        events(b"id: 0\nevent: token\ndata: {\n\n"),
        events(b"id: 0\nevent: token\ndata: []\n\n"),
    ],
)
def test_a_stream_that_no_killable_server_sends_is_an_error(
    script: Script, make_client: MakeClient, answer: Answer
) -> None:
    script.on("GET", f"{PATH}/stream", answer)
    with pytest.raises((Unreachable, WorkerCrashed)) as caught:
        list(make_client(retries=0).job(ID))
    assert "an invalid event stream" in str(caught.value.__cause__) or "not an answer of" in str(caught.value)


def test_a_reader_that_leaves_early_closes_its_connection(script: Script, make_client: MakeClient) -> None:
    client = make_client()
    script.on("GET", f"{PATH}/stream", events(event(0, "token", {"text": "a"}), terminal(1, "completed")))
    script.on("GET", PATH, problem(404, "unknown_job"))
    for token in client.job(ID):
        assert token == "a"
        break
    with pytest.raises(Refused):
        client.job(ID).record()
