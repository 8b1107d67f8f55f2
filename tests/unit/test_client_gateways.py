"""What stands between a client and its server: gateways with answers of their own, and the environment's settings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from support.blocking_client import MakeClient, OneClient
from support.scripted_server import ID, PATH, Answer, Script, as_json, event, events, terminal

from killable.api.client import server_answers
from killable.api.client.client import Unreachable
from killable.workers.errors import KillableError

GATEWAY = as_json({"code": 14, "message": "no healthy upstream"}, 502)
"""As grpc-gateway, Kubernetes and others say it: with a member that problems of ours have, too."""


def test_a_gateways_own_error_says_nothing_about_a_job(script: Script, client: OneClient) -> None:
    script.on("POST", "/v1/jobs", GATEWAY)
    script.on("GET", f"{PATH}/result", GATEWAY)
    for ask in (lambda: client.submit("split"), client.job(ID).result):
        with pytest.raises(Unreachable, match="answered 502"):
            ask()


def test_a_server_that_a_proxy_misses_for_a_moment_is_asked_again(script: Script, client: OneClient) -> None:
    script.on("GET", PATH, GATEWAY, as_json({"job_id": ID}))
    assert client.job(ID).record() == {"job_id": ID}
    gone = Answer(504, b"", "text/plain")
    first, rest = event(0, "token", {"text": "a"}), event(1, "token", {"text": "b"})
    script.on("GET", f"{PATH}/stream", events(first, cut=True), gone, events(rest, terminal(2, "completed")))
    assert list(client.job(ID)) == ["a", "b"]


@pytest.mark.parametrize(
    ("method", "path", "ask"),
    [
        ("GET", "/v1/jobs", lambda client: list(client.jobs())),
        ("DELETE", PATH, lambda client: client.job(ID).cancel()),
    ],
    ids=["list", "cancel"],
)
def test_an_answer_that_lacks_what_was_asked_for_is_a_strangers(
    script: Script, client: OneClient, method: str, path: str, ask: Callable[[OneClient], Any]
) -> None:
    """A job whose cancel was answered with anything is not taken for dead."""
    script.on(method, path, as_json({"ok": True}))
    with pytest.raises(Unreachable, match="not an answer of a killable server"):
        ask(client)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"jobs":' * 50_000, b'{"job_id":' + b"9" * 5000 + b"}"])
def test_json_that_python_does_not_read_is_a_strangers(script: Script, client: OneClient, content: bytes) -> None:
    script.on("GET", PATH, Answer(body=content))
    broken = Answer(body=b"id: 0\nevent: token\ndata: " + content + b"\n\n", kind="text/event-stream")
    script.on("GET", f"{PATH}/stream", broken, events(terminal(0, "completed")))
    script.on("DELETE", PATH, Answer(409, content, "application/problem+json"))
    for ask in (client.job(ID).record, client.job(ID).cancel):
        with pytest.raises(Unreachable, match="not an answer of a killable server"):
            ask()
    assert list(client.job(ID)) == [], "it is asked again"


@pytest.mark.parametrize("cursors", [["7", "7"], ["7", "8"], [5], [{}], ["x"], ["nan"], ["inf"]], ids=str)
def test_a_list_that_does_not_go_down_is_not_read_for_ever(
    script: Script, client: OneClient, cursors: list[Any]
) -> None:
    script.on("GET", "/v1/jobs", *[as_json({"jobs": [{"job_id": "a"}], "next_cursor": each}) for each in cursors])
    with pytest.raises(Unreachable, match="not an answer of a killable server"):
        list(client.jobs())
    assert len(script.asked) == len(cursors)


def test_a_list_of_pages_without_jobs_is_not_read_for_ever(script: Script, client: OneClient) -> None:
    script.on("GET", "/v1/jobs", as_json({"jobs": [], "next_cursor": "7"}))
    with pytest.raises(Unreachable, match="not an answer of a killable server"):
        list(client.jobs())


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("path", "status", "ask"),
    [
        (PATH, 200, lambda client: client.job(ID).record()),
        (f"{PATH}/result", 200, lambda client: client.job(ID).result()),
        (f"{PATH}/stream", 404, lambda client: list(client.job(ID))),
    ],
    ids=["record", "result", "refused stream"],
)
def test_of_an_answer_only_so_much_is_read(
    script: Script, client: OneClient, monkeypatch: pytest.MonkeyPatch, path: str, status: int,
    ask: Callable[[OneClient], Any], is_packed: bool,
) -> None:  # fmt: skip
    """A server that sends without end would take all memory of its client. It is not asked again, either."""
    monkeypatch.setattr(server_answers, "ANSWER_BYTES_MAX", 1 << 20)
    piece = b" " * (1 << 20)
    body = [gzip.compress(piece * 2)] if is_packed else [piece, piece]
    script.on("GET", path, Answer(status, body, headers={"Content-Encoding": "gzip"} if is_packed else {}))
    with pytest.raises(Unreachable, match="answered with more than 1 MiB, and the rest was not read") as caught:
        ask(client)
    assert caught.value.facts["status"] == status and len(script.asked) == 1


def test_an_answer_is_unpacked_once(script: Script, client: OneClient) -> None:
    members = {"job_id": ID, "tags": {"a": "b" * 1000}}
    packed = gzip.compress(json.dumps(members).encode())
    script.on("GET", PATH, Answer(200, packed, headers={"Content-Encoding": "gzip"}))
    assert client.job(ID).record() == members


def test_a_reason_may_have_bytes_that_are_no_text(script: Script, client: OneClient) -> None:
    """One from an exception with the name of a file: the cancel must not be lost by it."""
    script.on("DELETE", PATH, as_json({"job_id": ID, "status": "cancelled", "certificate": {}}))
    assert client.job(ID).cancel(reason="caf\udce9").state == "cancelled"
    assert script.asked[0].query == "reason=caf%5Cudce9"


@pytest.mark.parametrize("url", ["http://me:hidden@here:78a3", "http://me:hid/den@here"])
def test_a_password_is_not_shown_where_the_address_is_none(make_client: MakeClient, url: str) -> None:
    with pytest.raises(Unreachable, match="is not a valid address") as caught:
        make_client(url)
    assert "hid" not in str(caught.value) + repr(caught.value.facts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://proxy:78a3"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_an_environment_that_allows_no_connection_is_said_to(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for without in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(without, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(KillableError, match="certificates of this environment") as caught:
        make_client("https://elsewhere.example")
    assert isinstance(caught.value, Unreachable)
