"""A client of a web application leaves in the middle of a stream: the call behind it ends, however that is written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import processes
from support.uvicorn_process import listens_at
from support.waiting import until

HERE = Path(__file__).parent
WAYS = (
    "generator",
    "generator_with_a_variable",
    "generator_around_a_generator",
    "generator_with_a_block",
    "the_stream_itself",
    "fastapi/response",
    "fastapi/endpoint",
    "behind/generator",
    "behind/the_stream_itself",
)
JOBS = ("silent", "busy", "large")
"""The response waits for the next line, or for its client to read."""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    def leave(self, way: str, job: str, folder: Path) -> None:
        """Ask for a stream, read its beginning, and leave."""
        with self.reading(way, job, folder):
            assert not (folder / "ended").exists()

    @contextmanager
    def reading(self, way: str, job: str, folder: Path) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(f"GET /{way}?job={job}&folder={folder} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received or not received.partition(b"\r\n\r\n")[2]:
                received += client.recv(1000)
            assert received.startswith(b"HTTP/1.1 200 "), received
            yield client


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Serve the application until it is told to stop; it has to stop in order."""
    command = [sys.executable, "-m", "uvicorn", "stream_application:APPLICATION", "--port", "0", *options]
    paths = f"{HERE}{os.pathsep}{HERE.parent}"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        _, port = listens_at(process)
        try:
            yield Server(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=120)[0]
    assert "Application shutdown complete" in said, said


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--timeout-graceful-shutdown", "20") as started:
        processes.shared_servers.add(started.process.pid)
        yield started
        processes.shared_servers.remove(started.process.pid)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_ends_the_call(server: Server, way: str, job: str, tmp_path: Path) -> None:
    server.leave(way, job, tmp_path)
    until((tmp_path / "ended").exists, "the call has ended")


def test_a_server_that_stops_ends_the_calls_of_its_streams(tmp_path: Path) -> None:
    with serving("--timeout-graceful-shutdown", "1") as server, server.reading("generator", "silent", tmp_path):
        server.process.send_signal(signal.SIGTERM)
        until((tmp_path / "ended").exists, "the call has ended")
