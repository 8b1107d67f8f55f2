"""When a broken stream is taken up again: decided without a connection and without waiting."""

from __future__ import annotations

import time

import httpx
import pytest
from httpx_sse import ServerSentEvent

from killable.api.client.retries import PAUSE_S, Requester
from killable.api.client.server_answers import Server
from killable.api.client.stream_resume import ALIVE_S, RETRY_S_MAX, Reading
from killable.workers.error_classes import WorkerCrashed

SERVER = Server.at("http://here", uds=None, api_key=None, headers=None, connect_s=5, answer_s=30)


def reading(retries: int = 2) -> Reading:
    return Reading(Requester(SERVER, retries), "job-1", None)


def open_answer() -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"})


def connection(reading: Reading, *sent: ServerSentEvent, breaks: Exception | None = None) -> None:
    with reading.reconnecting():
        reading.opened(open_answer())
        for each in sent:
            reading.taken(each)
        if breaks is not None:
            raise breaks


def token(id: int, retry: int | None = None) -> ServerSentEvent:
    return ServerSentEvent("token", '{"text": "a"}', str(id), retry)


@pytest.mark.row("E13")
@pytest.mark.parametrize(
    ("retry", "least"),
    [
        (None, PAUSE_S),
        (3000, 3.0),
        (0, 0.0),
        (-1, PAUSE_S),
        (10**9, RETRY_S_MAX),
        pytest.param(10**400, RETRY_S_MAX, id="400 digits"),
    ],
)
def test_the_servers_retry_is_the_least_to_wait(retry: int | None, least: float) -> None:
    one = reading()
    assert one.pause_s == 0
    connection(one, token(0, retry))
    assert least <= one.pause_s <= min(RETRY_S_MAX, least * 1.5)


def test_each_connection_that_brings_nothing_makes_the_wait_longer() -> None:
    one = reading(retries=3)
    connection(one, token(0, 1000))
    for least in (1, 2, 4):
        connection(one)
        assert least <= one.pause_s <= least * 1.5
    with pytest.raises(WorkerCrashed):
        connection(one)


def test_one_that_brings_something_starts_the_count_again() -> None:
    one = reading(retries=1)
    for number in range(5):
        connection(one, token(number), breaks=httpx.ReadError("cut"))
        connection(one)
    assert one.call.headers["Last-Event-ID"] == "4"
    assert not one.is_over


def test_a_long_connection_without_events_was_worth_it_unless_the_server_was_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one = reading(retries=0)

    def lasting(error: Exception) -> None:
        nonlocal now
        with one.reconnecting():
            one.opened(open_answer())
            now += ALIVE_S
            raise error

    for _ in range(3):
        lasting(httpx.ReadError("a proxy's patience is over"))
    with pytest.raises(WorkerCrashed):
        lasting(httpx.ReadTimeout("no pings"))


def test_a_failure_of_the_readers_own_is_not_touched() -> None:
    one = reading()
    with pytest.raises(ZeroDivisionError), one.reconnecting():
        raise ZeroDivisionError
