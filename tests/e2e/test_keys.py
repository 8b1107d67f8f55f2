"""`killable keys`, and a server that reads its keys again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.killable_command import COMMAND, Command, Serve, Server, open_gate
from support.waiting import Pending, until

from killable.api.client.client import Client

KEYS = '[server]\napi_keys_file = "keys"\naudit_log = "audit.log"\n'
JOBS = """
from killable import job

@job
def twice(gate: str):
    yield "one"
    open(gate, "rb").close()
    yield "two"
"""
HEARS_HANG_UP = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
"""Under nohup it would hear nothing."""

HANGS_UP_EARLY = """
import os, signal, sys

def hang_up(event, arguments):
    if event == "import" and arguments[0] == "click":
        os.kill(os.getpid(), signal.SIGHUP)

sys.addaudithook(hang_up)
"""
"""As soon as the command looks what it was asked for."""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "killable.toml").write_text(KEYS)
    (tmp_path / "my_jobs.py").write_text(JOBS)
    return Command(tmp_path)


def log_of(server: Server, event: str) -> dict[str, Any]:
    """Read its log up to the next record of this event."""
    assert server.process.stderr is not None
    for line in server.process.stderr:
        record: dict[str, Any] = json.loads(line)
        if record["event"] == event:
            return record
    raise AssertionError(f"it ended without {event}")


def status(url: str, key: str) -> int:
    with httpx.Client(base_url=url, verify=False, trust_env=False) as http:
        return http.get("/v1/info", headers={"authorization": f"Bearer {key}"}).status_code


@pytest.mark.row("A25")
def test_keys_are_made_listed_and_revoked(command: Command) -> None:
    made = command.run("keys", "make", "dashboard", "--role", "submit", "--expires", "30d")
    key = made.stdout.strip()
    assert made.returncode == 0 and key.startswith("killable_") and key not in made.stderr
    assert "dashboard (submit)" in made.stderr and "the key is shown this once" in made.stderr
    other = command.json("keys", "make", "ci", "--role", "read", "--visibility", "own")
    assert other["key"].startswith("killable_") and other["file"] == str(command.folder / "keys")
    listed = command.json("keys", "list")
    assert [(each["name"], each["role"], each["visibility"], each["kept_as"]) for each in listed] == [
        ("dashboard", "submit", None, "digest"),
        ("ci", "read", "own", "digest"),
    ]
    assert listed[0]["expires"] > listed[0]["created"] and listed[1]["expires"] is None
    table = command.ok("keys", "list")
    assert "NAME" in table and "dashboard" in table and key not in table + json.dumps(listed)
    assert "revoked ci" in command.run("keys", "revoke", "ci").stderr
    assert [each["name"] for each in command.json("keys", "list")] == ["dashboard"]
    assert command.json("keys", "revoke", "dashboard")["name"] == "dashboard"
    assert command.json("keys", "list") == []


@pytest.mark.row("A25")
def test_what_keys_refuses(command: Command) -> None:
    for code, words, args in (
        (2, "needs the name of the key", ("make", "--role", "read")),
        (2, "needs a role", ("make", "a")),
        (2, "takes no name", ("list", "a")),
        (2, "--role", ("make", "a", "--role", "admin")),
        (78, "there is no key named a", ("revoke", "a")),
        (78, "a name has 1 to 64 characters", ("make", "a b", "--role", "read")),
    ):
        if code == 78:
            command.run("keys", "make", "there", "--role", "read")
        done = command.run("keys", *args)
        assert done.returncode == code and words in done.stderr, (args, done.stderr)
    (command.folder / "killable.toml").write_text("")
    done = command.run("keys", "list")
    assert done.returncode == 78 and "server.api_keys_file" in done.stderr and "--file" in done.stderr
    assert command.run("keys", "list", "--file", "keys").returncode == 0


@pytest.mark.row("A25")
def test_doctor_says_which_keys_stand_there_in_clear_text(command: Command) -> None:
    def found() -> dict[str, str]:
        checks = json.loads(command.run("doctor", "--json").stdout)["checks"]
        (check,) = [check for check in checks if check["name"] == "API keys"]
        return {name: check[name] for name in ("status", "found")}

    command.ok("keys", "make", "ci", "--role", "read")
    assert found()["status"] == "ok"
    with (command.folder / "keys").open("a") as file:
        file.write("old operate 0123456789abcdef\n")
    told = found()
    assert told["status"] == "warn" and "old" in told["found"] and "0123456789abcdef" not in told["found"]


@pytest.mark.row("A25")
def test_a_reload_reads_the_keys_again_as_a_hang_up_does(command: Command, serve: Serve) -> None:
    """What could not be read is said to who asked for it, too."""
    (command.folder / "killable.toml").write_text(KEYS)
    first = command.json("keys", "make", "first", "--role", "operate")["key"]
    server = serve("my_jobs.py", "--port", "0")
    asking = Command(command.folder, server.url)

    def reload(*args: str) -> subprocess.CompletedProcess[str]:
        return asking.run("reload", *args, env={"KILLABLE_API_KEY": first})

    second = command.json("keys", "make", "second", "--role", "read")["key"]
    assert status(server.url, second) == 401
    done = reload()
    assert (done.returncode, done.stderr) == (0, "")
    assert status(server.url, second) == 200
    (command.folder / "keys").write_text("first\n")
    done = reload()
    assert done.returncode == 1 and "has the new code" in done.stdout
    assert done.stderr.startswith("killable: the keys stay as they are: ")
    done = reload("--json")
    (told,) = json.loads(done.stdout)["not_read"]
    assert done.returncode == 1 and told.startswith("the keys stay as they are: ")
    assert status(server.url, second) == 200


@pytest.mark.row("A25")
def test_a_hang_up_before_the_first_line_of_ours_does_nothing_where_it_is_ignored(
    command: Command, serve: Serve
) -> None:
    """As `trap '' HUP; exec killable serve` has it. The server hears the later ones all the same."""
    (command.folder / "killable.toml").write_text(KEYS)
    first = command.json("keys", "make", "first", "--role", "operate")["key"]
    hangs_up = ("sh", "-c", """trap '' HUP; kill -HUP $$; exec "$0" -c "$HANGS_UP" "$@" """, sys.executable)
    program = "import os, signal, sys; os.kill(os.getpid(), signal.SIGHUP); from killable.api.cli import main; main()"
    server = serve("my_jobs.py", "--port", "0", program=hangs_up, env={"HANGS_UP": program})
    second = command.json("keys", "make", "second", "--role", "read")["key"]
    server.process.send_signal(signal.SIGHUP)
    until(lambda: status(server.url, second) == 200 or Pending(status(server.url, second)), "it has read them again")
    assert status(server.url, first) == 200


@pytest.mark.row("A25")
def test_a_hang_up_reads_the_keys_again_and_ends_nothing(
    command: Command, tmp_path: Path, serve: Serve, gate: str
) -> None:
    """Nor does a file with faults, nor one that has gone: the keys stay as they are. Tables of tenants without a key
    are told each time.
    """
    (tmp_path / "killable.toml").write_text(KEYS + "[tenants.second]\nrunning_max = 1\n[tenants.sceond]\n")
    first = command.json("keys", "make", "first", "--role", "operate")["key"]
    arguments = ("my_jobs.py", "--port", "0", "--log-format", "json")
    server = serve(*arguments, program=COMMAND, preexec_fn=HEARS_HANG_UP)
    assert log_of(server, "tenants_without_key")["names"] == "sceond second"
    with Client(server.url, api_key=first) as client:
        table = command.run("tenants", "--url", server.url, env={"KILLABLE_API_KEY": first})
        assert "second*" in table.stdout and "no API key has this name" in table.stderr
        tokens = iter(client.submit("twice", {"gate": gate}))
        assert next(tokens) == "one"

        second = command.json("keys", "make", "second", "--role", "read")["key"]
        assert status(server.url, second) == 401
        server.process.send_signal(signal.SIGHUP)
        record = log_of(server, "keys_reloaded")
        assert (record["came"], record.get("gone", ""), record["keys"]) == ("second", "", 2)
        assert log_of(server, "tenants_without_key")["names"] == "sceond"
        assert status(server.url, second) == 200

        keys = tmp_path / "keys"
        whole = keys.read_text()
        for spoil in (lambda: keys.write_text("first\n"), lambda: keys.chmod(0o644), keys.unlink):
            spoil()
            server.process.send_signal(signal.SIGHUP)
            assert str(keys) in log_of(server, "keys_not_reloaded")["error"]
            assert (status(server.url, first), status(server.url, second)) == (200, 200)
            (told,) = [each for each in client.ready()["degraded"] if "the keys stay as they are" in each]
            assert str(keys) in told, "whoever looks later sees it, too"
            assert "killable_degraded 0.0" not in client.exposition()

        keys.write_text(whole)
        keys.chmod(0o600)
        command.ok("keys", "revoke", "first")
        server.process.send_signal(signal.SIGHUP)
        assert log_of(server, "keys_reloaded")["gone"] == "first"
        with Client(server.url) as anyone:
            assert "keys" not in "".join(anyone.ready()["degraded"])
        assert (status(server.url, first), status(server.url, second)) == (401, 200)
        open_gate(gate)
        assert list(tokens) == ["two"], "a stream that a key has begun goes on without it"
        command.ok("keys", "revoke", "second")
        server.process.send_signal(signal.SIGHUP)
        assert log_of(server, "keys_reloaded")["keys"] == 0
        assert status(server.url, second) == 401, "and nobody is let in without any"
    audit_log = tmp_path / "audit.log"
    # Records go to the file some 20 ms after the answer; those that wait when it is moved would go to the new one.
    until(lambda: audit_log.read_text().count('"keys_reloaded"') == 3, "the records are in the file")
    audit_log.rename(tmp_path / "audit.log.1")
    server.process.send_signal(signal.SIGHUP)
    log_of(server, "keys_reloaded")
    assert server.stop()[:2] == (0, [])
    before, after = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("audit.log.1", "audit.log")
    )
    reloads = ["keys_reloaded", *["keys_not_reloaded"] * 3, "keys_reloaded", "keys_reloaded"]
    assert [each["event"] for each in before if each["event"] != "other"] == ["started", "submit", *reloads]
    assert [each["event"] for each in after][-2:] == ["keys_reloaded", "ended"]
    assert [each["number"] for each in before + after] == list(range(1, len(before + after) + 1))


@pytest.mark.row("A25")
def test_a_server_does_not_start_without_its_audit_log(command: Command) -> None:
    (command.folder / "killable.toml").write_text('[server]\naudit_log = "none/audit.log"\n')
    done = command.run("serve", "my_jobs.py", "--port", "0")
    assert done.returncode == 71 and "none/audit.log cannot be opened: no such file" in done.stderr


@pytest.mark.row("A25")
@pytest.mark.parametrize(("trusted", "source"), [("[]", "127.0.0.1"), ('["127.0.0.0/8"]', "203.0.113.66")])
def test_who_is_forwarded_for_is_believed_of_trusted_proxies_only(
    tmp_path: Path, serve: Serve, trusted: str, source: str
) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "killable.toml").write_text(f"[server]\naudit_log = 'audit.log'\ntrusted_proxies = {trusted}\n")
    server = serve("my_jobs.py", "--port", "0", program=COMMAND)
    httpx.delete(f"{server.url}/v1/jobs/none", headers={"X-Forwarded-For": "203.0.113.66"})
    assert server.stop()[:2] == (0, [])
    records = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [each["from"] for each in records if each["event"] == "cancel"] == [source]


@pytest.mark.row("A25")
def test_a_hang_up_never_ends_a_server(tmp_path: Path, serve: Serve) -> None:
    """Not one that has just begun, nor one without keys, nor one that is ending."""
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(HANGS_UP_EARLY)
    arguments = ("my_jobs.py", "--port", "0", "--log-format", "json")
    early = {"PYTHONPATH": str(tmp_path / "early")}
    server = serve(*arguments, program=COMMAND, preexec_fn=HEARS_HANG_UP, env=early)
    assert "without keys" in log_of(server, "keys_not_reloaded")["error"], "its files may have been read before"
    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)
    assert "without keys" in log_of(server, "keys_not_reloaded")["error"]
    process = psutil.Process(server.process.pid)
    server.process.send_signal(signal.SIGTERM)

    def ended() -> bool | Pending:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            server.process.send_signal(signal.SIGHUP)
        return server.process.poll() is not None or Pending("running")

    until(ended, "its end, by the signal that asked for it")
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0


def test_the_command_says_once_that_a_key_goes_unencrypted(command: Command) -> None:
    """To an address that is no loopback one; nobody listens there."""
    env = {"KILLABLE_API_KEY": "0123456789abcdef", "KILLABLE_URL": "http://0.0.0.0:1", "NO_PROXY": "*"}
    done = command.run("ps", env=env)
    assert done.returncode == 69
    assert done.stderr.count("warning: the API key goes to http://0.0.0.0:1 unencrypted") == 1
    assert "UserWarning" not in done.stderr and "0123456789abcdef" not in done.stderr
