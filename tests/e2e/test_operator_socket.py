"""The operators' Unix socket: a way in beside all other clients, for root and the server's own user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support.killable_command import Command, Serve, Server
from support.waiting import Pending, until

from killable.api.client.client import Client
from killable.api.client.errors import Unreachable
from killable.workers.errors import Refused

JOBS = """
from killable import job

@job
def spin():
    while True:
        pass
"""
CONNECTIONS_MAX = 8
HOSTILE = 300
"""Connections; as many as the server has room for wait for a job, the others do nothing."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can look into."""
    folder = Path(tempfile.mkdtemp(prefix="killable-operators-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(tmp_path: Path, place: Path, serve: Serve) -> Server:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "killable.toml").write_text(
        '[server]\napi_keys_file = "keys"\naudit_log = "audit.log"\n'
        f"connections_max = {CONNECTIONS_MAX}\n"
        f'operator_socket = "{place / "operators"}"\n'
    )
    for name, role in (("team", "submit"), ("oncall", "operate")):
        made = Command(tmp_path).json("keys", "make", name, "--role", role, "--visibility", "own")
        (tmp_path / f"{name}.key").write_text(made["key"])
    return serve("my_jobs.py", "--port", "0")


@pytest.mark.row("A25")
def test_an_operator_gets_through_beside_connections_that_hold_all_others(
    server: Server, tmp_path: Path, place: Path
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    url, key = f"unix:{place / 'operators'}", (tmp_path / "team.key").read_text()
    with Client(server.url, api_key=key) as client:
        job = client.submit("spin", {})
        assert job.record()["tenant"] == "team"
    waits = f"GET /v1/jobs/{job.id}/result?wait_s=60 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n"
    with ExitStack() as held:

        def shut_out() -> bool | Pending:
            """One more connection waits for the job: unlike an idle one it is never closed for another."""
            connection = held.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall(waits.encode())
            with Client(server.url, api_key=key, retries=0) as client:
                try:
                    client.info()
                except (Unreachable, Refused) as error:
                    return error.code == "too_many_connections" or Pending(error)
            return Pending("let in")

        until(shut_out, "a server that lets nobody in")
        for _ in range(HOSTILE):
            held.enter_context(socket.create_connection((host, int(port)), timeout=60))
        own = Command(tmp_path, url)
        assert own.json("ps")["jobs"][0]["job_id"] == job.id
        own.ok("kill", job.id, "--now")
        assert own.json("inspect", job.id)["state"] == "cancelled"
        own.ok("drain")
        own.ok("drain", "--off")
    assert server.announcement["operator_socket"] == str(place / "operators")
    until(lambda: (tmp_path / "audit.log").read_text().count('"undrain"') or Pending("no record"), "its record")
    records = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    cancel, *_ = [record for record in records if record["event"] == "cancel"]
    assert (cancel["tenant"], cancel["role"], cancel["via"]) == (f"uid:{os.geteuid()}", "operate", "socket")
    assert cancel["owners"] == ["team"] and "key_id" not in cancel


@pytest.mark.row("A25")
def test_the_socket_is_for_the_servers_user_and_root(server: Server, place: Path) -> None:
    path = place / "operators"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Client(f"unix:{path}") as client:
        mine = client.submit("spin", {})
        assert mine.record()["tenant"] == f"uid:{os.geteuid()}"
        mine.cancel(grace_s=0)
    if os.geteuid() == 0:
        path.chmod(0o666)  # so that it is the kernel's word on who connects that counts
        assert _asks_as(65534, path) == b"" and _asks_as(0, path).startswith(b"HTTP/1.1 200")
    code, left, _ = server.stop()
    assert (code, left) == (0, []) and not path.exists()


def _asks_as(uid: int, path: Path) -> bytes:
    """Return what the server answers to another user."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(os.fspath(path))
                try:
                    connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    os.write(writable, connection.recv(12))
                except ConnectionError:
                    pass  # closed, which is no answer
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as answered:
        found = answered.read()
    psutil.Process(child).wait(60)
    return found
