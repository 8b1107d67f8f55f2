"""`killable shutdown` where the server does not go: it is made to, and nobody else is."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from support.killable_command import COMMAND, Command, Serve, Server, open_gate, read_line

from killable.api.cli.app import app
from killable.api.cli.server import owner_socket
from killable.api.cli.server.running_server import Foreign, RunningServer, is_on_this_machine


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are what is tested, not how long each is waited for."""
    module = importlib.import_module("killable.api.cli.commands.shutdown")
    for name in ("LEAVE_S", "GRACE_S_MAX", "TERM_S", "ASK_AGAIN_S"):
        monkeypatch.setattr(module, name, 0.3)


def test_a_service_manager_may_signal_every_process_of_a_server(folder: Path, serve: Serve, gate: str) -> None:
    """As systemd does by default (systemd.kill(5), control-group): jobs have their grace all the same."""
    server = serve("my_jobs.py", "--port", "0")
    own = Command(folder, server.url)
    with own.start("submit", "tick", "-i", f"gate={gate}", "--grace-s", "1m") as reader:
        assert read_line(reader) == "tick\n" and server.process.stderr is not None
        for process in (*psutil.Process(server.process.pid).children(recursive=True), server.process):
            process.send_signal(signal.SIGTERM)
        assert any(
            line == "1 job is cancelled with its grace; Ctrl-C again kills it\n" for line in server.process.stderr
        )
        own.ok("ps")
        open_gate(gate)
        _, err = reader.communicate(timeout=60)
    server.process.communicate(timeout=60)
    assert (server.process.returncode, reader.returncode, "cleaned up" in err) == (0, 3, True)


class Liar:
    """A server that says that it shuts down, and does not; its pid is somebody else's."""

    def __init__(self, pid: int) -> None:
        liar = self
        self.asked: list[str] = []

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                liar.asked.append(f"{self.command} {self.path.partition('?')[0]}")
                body = json.dumps({"pid": pid, "draining": True, "running": 0, "queued": 0}).encode()
                self.send_response(202 if self.command == "POST" else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a server by its words, and is none: it listens nowhere."""
    process = subprocess.Popen(["sh", "-c", "read line", "killable", "serve"], stdin=subprocess.PIPE)
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@pytest.mark.own_server(program=COMMAND)
@pytest.mark.row("G8")
def test_a_server_that_hangs_gets_sigterm_then_sigkill(server: Server, impatient: None) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)  # its loop does not turn, and SIGTERM stays pending
    done = CliRunner().invoke(app, ["shutdown", "--url", server.url, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["down"] and document["pid"] == server.process.pid
    assert document["how"] == "no answer over HTTP, then SIGKILL"
    server.process.communicate(timeout=60)
    assert server.process.returncode == -signal.SIGKILL


@pytest.mark.row("G8")
@pytest.mark.row("G3")
def test_a_pid_that_is_not_the_servers_is_not_signalled(stranger: subprocess.Popen[bytes], impatient: None) -> None:
    liar = Liar(stranger.pid)
    try:
        done = CliRunner().invoke(app, ["shutdown", "--url", liar.url])
    finally:
        liar.close()
    assert "POST /v1/shutdown" in liar.asked
    assert done.exit_code == 71
    assert f"pid {stranger.pid} is not signalled" in done.stderr and "does not listen there" in done.stderr
    assert stranger.poll() is None


@pytest.mark.own_server(program=COMMAND)
@pytest.mark.row("G3")
def test_foreign_processes_are_refused(server: Server, stranger: subprocess.Popen[bytes]) -> None:
    RunningServer(server.process.pid, server.url).close()
    for pid, url, why in (
        (stranger.pid, server.url, "does not listen there"),
        (server.process.pid, "http://127.0.0.1:1", "does not listen there"),
        (os.getpid(), server.url, "it is not `killable serve`"),
        (1, server.url, ""),
        (2**22 + 1, server.url, "cannot be opened"),
        (-1, server.url, "cannot be opened"),
    ):
        with pytest.raises(Foreign, match=f"pid {pid} is not signalled.*{why}"):
            RunningServer(pid, url)
    with pytest.raises(Foreign, match="no `killable serve` of this user listens"):
        RunningServer.listening_at("http://127.0.0.1:1")


def test_a_unix_socket_is_looked_up_too(serve: Any, folder: Path) -> None:
    path = folder / "socket"
    server = serve("my_jobs.py", "--uds", str(path), program=COMMAND)
    with RunningServer(server.process.pid, f"unix:{path}") as process:
        assert not process.wait(0)
    with pytest.raises(Foreign):
        RunningServer(server.process.pid, f"unix:{path}2")


AS_NOBODY = (
    ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
     "--ambient-caps=+dac_read_search", "env", "TMPDIR=/tmp")
    if os.geteuid() == 0 else ()
)  # fmt: skip
"""Reads the interpreter of the tests, which may be in root's home."""


def test_a_server_hides_its_descriptors_and_is_found_all_the_same(folder: Path, serve: Any) -> None:
    server = serve("my_jobs.py", "--port", "0", program=(*AS_NOBODY, *COMMAND))
    pid = server.process.pid
    guard = psutil.Process(pid).children()[0].pid
    # In /proc what belongs to root is hidden from the processes of a user; jobs may read what is their own.
    assert (os.stat(f"/proc/{pid}/environ").st_uid, os.stat(f"/proc/{pid}/fd").st_uid) == (0, 0)
    assert os.stat(f"/proc/{guard}/environ").st_uid == psutil.Process(pid).uids().real != 0
    asked = f"from killable.api.cli.server import owner_socket; print(owner_socket.owner({server.url!r}))"
    told = subprocess.run([*AS_NOBODY, sys.executable, "-c", asked], capture_output=True, text=True, timeout=60)
    assert told.stdout == f"{pid}\n", told.stderr


def test_the_owner_of_an_address_is_known_from_the_kernel(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert owner_socket.owner(f"unix:{tmp_path / 's'}") is None
        listening.listen()
        assert owner_socket.owner(f"unix:{tmp_path / 's'}") == os.getpid()
        assert owner_socket.claim(f"unix:{tmp_path / 's'}") is None
    claimed = owner_socket.claim("http://127.0.0.1:1")
    assert claimed is not None
    with claimed:
        assert owner_socket.claim("http://127.0.0.1:1") is None
        assert owner_socket.owner("http://localhost:1") == os.getpid()
    assert owner_socket.owner("http://localhost:1") is None


def test_which_addresses_are_this_machines_own() -> None:
    for own in ("http://127.0.0.1:7833", "http://localhost", "http://[::1]:1", "unix:/tmp/socket"):
        assert is_on_this_machine(own)
    for other in ("http://10.0.0.1:7833", "https://example.org"):
        assert not is_on_this_machine(other)
