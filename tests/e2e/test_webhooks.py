"""`killable serve` with webhooks: signed, repeated, bounded, into no private network, not lost with the server."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.killable_command import Command, Serve, Server, client_of
from support.waiting import Pending, until
from support.webhook_receiver import Receiver, receiving, signature_of

from killable import Client, Refused

pytestmark = pytest.mark.own_server
SECRET, OTHER = (f"whsec_{base64.b64encode(bytes([fill]) * 32).decode()}" for fill in (1, 2))
JOBS = """
from killable import job

@job
def double(number: int) -> int:
    return 2 * number

@job
def fails() -> None:
    raise ValueError("no luck")

@job
def spin() -> None:
    while True:
        pass
"""
CONFIGURATION = """
[server]
port = 0
{server}

[webhooks]
secrets_file = "secrets"
backoff_s = 0.05
{webhooks}

[pools.p]
module = "./my_jobs.py"
workers = 2
"""
LOCAL = 'allow = ["127.0.0.0/8", "::1"]'
Start = Callable[..., Server]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def start(serve: Serve, tmp_path: Path) -> Start:
    """Start a server in the same folder, with these settings and lines of the secrets' file."""

    def begin(webhooks: str = LOCAL, server: str = "", secrets: str = f"* {SECRET}\n", **options: Any) -> Server:
        (tmp_path / "my_jobs.py").write_text(JOBS)
        (tmp_path / "killable.toml").write_text(CONFIGURATION.format(server=server, webhooks=webhooks))
        write_secrets(tmp_path, secrets)
        started: Server = serve(**options)
        return started

    return begin


def write_secrets(folder: Path, text: str) -> None:
    path = folder / "secrets"
    path.touch(0o600)
    path.write_text(text)


def until_settled(url: str, job_id: str, state: str = "delivered") -> dict[str, Any]:
    """Wait until a job's webhook has this state; return what its record has of it."""

    def is_settled() -> dict[str, Any] | Pending:
        found: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}").json()["callback"]
        return found if found["state"] == state else Pending(found)

    return until(is_settled, f"the webhook is {state}")


@pytest.mark.row("H14")
def test_the_final_record_comes_signed(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    server = start()
    hook = f"http://localhost:{receiver.port}/hook?a=1"
    with client_of(server.url) as client:
        job = client.submit("double", {"number": 21}, callback_url=hook)
        assert job.accepted is not None and job.accepted["callback"]["state"] == "pending"
        assert until_settled(server.url, job.id) == {"state": "delivered", "attempts": 1, "detail": "status 204"}
        failed = client.submit("fails", callback_url=hook)
        until_settled(server.url, failed.id)
        plain = client.submit("double", {"number": 1})
        plain.result(wait_s=30)
        assert plain.record()["callback"] is None
        metrics = client.metrics()["webhooks"]
        assert metrics == {"waiting": 0, "delivered": 2, "failed": 0, "given_up": 0, "refused": 0}
        assert "killable_webhooks_delivered_total 2.0" in client.exposition()
    (headers, body), (_, second) = receiver.got
    assert headers["webhook-signature"] == signature_of(SECRET, headers, body)
    assert headers["webhook-id"] == f"msg_{job.id}" and abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert (headers["content-type"], headers["host"]) == ("application/json", f"localhost:{receiver.port}")
    event = receiver.bodies[0]
    assert (event["type"], event["data"]["result"], event["data"]["job_id"]) == ("job.completed", 42, job.id)
    assert event["timestamp"] == event["data"]["ended_at"] and event["data"]["certificate"]["proof"]
    assert b'"type":"job.failed"' in second and receiver.bodies[1]["data"]["error"]["code"] == "exception"
    code = Command(tmp_path, server.url).run("submit", "double", "-i", "number=2", "--callback-url", hook, "-d")
    until_settled(server.url, code.stdout.strip())


@pytest.mark.row("H14")
def test_what_is_not_taken_is_sent_again_with_the_same_id(start: Start, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 429, 200]
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere", "Retry-After": "0"}
    server = start()
    with client_of(server.url) as client:
        job = client.submit("double", {"number": 1}, callback_url=f"http://127.0.0.1:{receiver.port}/")
        assert until_settled(server.url, job.id)["attempts"] == 4
        assert client.metrics()["webhooks"] | {"waiting": 0} == {
            "waiting": 0, "delivered": 1, "failed": 3, "given_up": 0, "refused": 0,
        }  # fmt: skip
    assert len(receiver.got) == 4 and set(receiver.ids()) == {f"msg_{job.id}"}, "no redirect was followed"
    assert all(headers["webhook-signature"] == signature_of(SECRET, headers, body) for headers, body in receiver.got)
    log = server.stop()[2]
    assert log.count("webhook_failed") == 3 and "status 302: redirects are not followed" in log
    assert "elsewhere" not in log and SECRET not in log


@pytest.mark.row("H14")
def test_it_is_given_up_after_its_attempts_or_at_the_word_of_the_receiver(start: Start, receiver: Receiver) -> None:
    receiver.statuses = [410, 500]
    server = start(f"{LOCAL}\nattempts_max = 3")
    with client_of(server.url) as client:
        hook = f"http://127.0.0.1:{receiver.port}/"
        gone = client.submit("double", {"number": 1}, callback_url=hook)
        assert until_settled(server.url, gone.id, "failed") == {
            "state": "failed",
            "attempts": 1,
            "detail": "status 410",
        }
        tried = client.submit("double", {"number": 1}, callback_url=hook)
        assert until_settled(server.url, tried.id, "failed")["attempts"] == 3
        assert client.metrics()["webhooks"]["given_up"] == 2
    assert server.stop()[2].count("webhook_given_up") == 2


@pytest.mark.row("H14")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://127.0.0.1/", "must not be in a private network"),
        ("https://169.254.169.254/latest/meta-data", "must not be in a private network"),
        ("https://[::ffff:10.0.0.1]/", "must not be in a private network"),
        ("http://example.com/", "must begin with https://"),
        ("ftp://example.com/", "must be like https://"),
        ("https://user:secret@example.com/", "a user or a password"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com/\n", "characters"),
    ],
)
def test_a_wrong_address_is_refused_at_the_submission(start: Start, url: str, words: str) -> None:
    server = start("")
    with client_of(server.url) as client, pytest.raises(Refused) as caught:
        client.submit("double", {"number": 1}, callback_url=url)
    (fault,) = caught.value.facts["faults"]
    assert (caught.value.code, fault["pointer"]) == ("invalid", "/callback_url") and words in fault["message"]


@pytest.mark.row("H14")
def test_a_name_of_a_private_address_is_not_connected_to(start: Start, receiver: Receiver) -> None:
    server = start('allow = ["10.0.0.0/8"]\nattempts_max = 2')
    with client_of(server.url) as client:
        job = client.submit("double", {"number": 1}, callback_url=f"https://localhost:{receiver.port}/")
        found = until_settled(server.url, job.id, "failed")
    assert "in a private network" in found["detail"] and found["attempts"] == 2
    assert receiver.got == []


@pytest.mark.row("H14")
def test_a_receiver_that_never_answers_holds_up_neither_kills_nor_others(start: Start, receiver: Receiver) -> None:
    receiver.is_silent = True
    server = start(f"{LOCAL}\nattempts_max = 1\ntimeout_s = 2")
    with client_of(server.url) as client, receiving() as other:
        hook = f"http://127.0.0.1:{receiver.port}/"
        stuck = [client.submit("double", {"number": n}, callback_url=hook) for n in range(4)]
        until(lambda: len(receiver.got) == 4, "all of its tenant's are under way")
        spinning = client.submit("spin", callback_url=f"http://127.0.0.1:{other.port}/", limits={"grace_s": 0})
        next(event for event in spinning.events() if event.name == "started")
        assert spinning.cancel().certificate["tree_empty"] < 2000
        assert other.got == [], "four of one tenant are under way: this one waits"
        for job in stuck:
            assert "no answer within 2 s" in until_settled(server.url, job.id, "failed")["detail"]
        until_settled(server.url, spinning.id)
        assert other.bodies[0]["type"] == "job.cancelled"


@pytest.mark.row("H14")
def test_a_tenant_gets_a_place_of_one_that_has_more(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses, receiver.headers = [503], {"Retry-After": "600"}
    (tmp_path / "killable.toml").write_text('[server]\napi_keys_file = "keys"\n')
    command = Command(tmp_path)
    keys = {name: command.json("keys", "make", name, "--role", "submit")["key"] for name in ("ann", "bob", "cid")}
    server = start(f"{LOCAL}\nwaiting_max = 4", server='api_keys_file = "keys"')

    def callback_of(name: str, job_id: str) -> Any:
        record = httpx.get(f"{server.url}/v1/jobs/{job_id}", headers={"Authorization": f"Bearer {keys[name]}"})
        return record.json()["callback"]

    def end_one(name: str, port: int) -> str:
        with Client(server.url, api_key=keys[name]) as client:
            return client.submit("double", {"number": 1}, callback_url=f"http://127.0.0.1:{port}/").id

    def until_is(name: str, job_id: str, state: str, attempts: int) -> Any:
        def is_so() -> Any:
            found = callback_of(name, job_id)
            return found if (found["state"], found["attempts"]) == (state, attempts) else Pending(found)

        return until(is_so, f"{job_id} is {state}")

    waiting = [(name, end_one(name, receiver.port)) for name in ("ann", "bob", "ann", "bob")]
    for name, job_id in waiting:
        until_is(name, job_id, "pending", 1)
    with receiving() as other:
        until_is("cid", end_one("cid", other.port), "delivered", 1)
    (given_up,) = [job_id for name, job_id in waiting if callback_of(name, job_id)["state"] == "failed"]
    assert given_up == waiting[0][1], "which waited longest"
    refused = until_is("bob", end_one("bob", receiver.port), "failed", 0)
    assert "too many" in refused["detail"], "half of all is the most"


@pytest.mark.row("H14", "B16")
def test_what_was_not_delivered_is_delivered_by_the_next_server(start: Start, tmp_path: Path) -> None:
    with receiving() as receiver, receiving() as silent:
        port = receiver.port
        receiver.statuses, silent.is_silent = [500], True
        server = start(f"{LOCAL}\nattempts_max = 99", 'journal = "jobs.journal"', program=PROGRAM)
        hook = f"http://127.0.0.1:{port}/"
        with client_of(server.url) as client:
            before = client.submit("double", {"number": 21}, callback_url=hook)
            until(lambda: len(receiver.got) >= 2, "it was tried")
            waits = client.submit("spin", callback_url=hook)
            next(event for event in waits.events() if event.name == "started")
            under_way = client.submit("double", {"number": 2}, callback_url=f"http://127.0.0.1:{silent.port}/")
            until(lambda: silent.got, "it is under way")
        server.die()
    with receiving(port=port) as receiver, receiving(port=silent.port) as heard:
        server = start(f"{LOCAL}\nattempts_max = 99", 'journal = "jobs.journal"', program=PROGRAM)
        assert until_settled(server.url, before.id)["attempts"] >= 2, "those of the server that died count"
        assert until_settled(server.url, waits.id)["attempts"] == 1
        until_settled(server.url, under_way.id)
        assert silent.ids() == heard.ids() == [f"msg_{under_way.id}"]
        states = {event["data"]["job_id"]: event["type"] for event in receiver.bodies}
        assert states == {before.id: "job.completed", waits.id: "job.failed"}, "one was lost with the server"
        number = len(receiver.got)
        server.die()
        server = start(f"{LOCAL}\nattempts_max = 99", 'journal = "jobs.journal"', program=PROGRAM)
        with client_of(server.url) as client:
            last = client.submit("double", {"number": 1}, callback_url=hook)
            until_settled(server.url, last.id)
        assert len(receiver.got) == number + 1, "what was taken is not sent again"


PROGRAM: tuple[str, ...] = ()


@pytest.mark.row("H14")
def test_a_secret_is_replaced_while_the_server_runs(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    server = start(secrets=f"* {SECRET} url=http://127.0.0.1:{receiver.port}/\n")
    with client_of(server.url) as client:
        until_settled(server.url, client.submit("double", {"number": 1}).id)
        write_secrets(tmp_path, f"# both\n* {OTHER} {SECRET} url=http://127.0.0.1:{receiver.port}/\n")
        os.kill(server.process.pid, signal.SIGHUP)

        def signed_by_both() -> bool | Pending:
            until_settled(server.url, client.submit("double", {"number": 1}).id)
            headers, body = receiver.got[-1]
            both = f"{signature_of(OTHER, headers, body)} {signature_of(SECRET, headers, body)}"
            return headers["webhook-signature"] == both or Pending(headers["webhook-signature"])

        until(signed_by_both, "the new secret signs, too")
        write_secrets(tmp_path, "* whsec_short\n")
        os.kill(server.process.pid, signal.SIGHUP)
        until_settled(server.url, client.submit("double", {"number": 1}).id)
    log = server.stop()[2]
    assert "webhook_secrets_reloaded" in log and SECRET not in log


@pytest.mark.row("H14")
@pytest.mark.parametrize(
    ("secrets", "mode", "words"),
    [
        ("* whsec_!!!\n", 0o600, "line 1 has a secret that is not whsec_ and base64"),
        ("* secret\n", 0o600, "line 1 has a secret that does not begin with whsec_"),
        ("* whsec_AAAA\n", 0o600, "line 1 has a secret of 3 bytes"),
        ("*\n", 0o600, "line 1 has 0 secrets"),
        (f"* {SECRET}\n* {SECRET}\n", 0o600, "line 2 repeats *"),
        (f"* {SECRET} url=https://10.0.0.1/\n", 0o600, "line 1 has an address that must not be in a private network"),
        ("", 0o600, "it has no secret"),
        (f"* {SECRET}\n", 0o644, "chmod 600"),
    ],
)
def test_a_wrong_file_of_secrets_keeps_the_server_from_starting(
    tmp_path: Path, secrets: str, mode: int, words: str
) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "killable.toml").write_text(CONFIGURATION.format(server="", webhooks=""))
    write_secrets(tmp_path, secrets)
    (tmp_path / "secrets").chmod(mode)
    done = Command(tmp_path).run("serve")
    assert done.returncode == 78 and words in done.stderr.replace("\n", " "), done.stderr
    assert SECRET not in done.stderr


@pytest.mark.row("H14")
def test_without_secrets_an_address_is_refused(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    server = serve("my_jobs.py", "--port", "0")
    with client_of(server.url) as client, pytest.raises(Refused, match="secrets_file"):
        client.submit("double", {"number": 1}, callback_url="https://example.com/")
