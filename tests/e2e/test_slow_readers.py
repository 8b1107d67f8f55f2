"""Many readers that take next to nothing, of a job that has streamed and returned much: what it costs the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.killable_command import COMMAND, Command, Server, SharedServer
from support.waiting import Pending, until

JOBS = '''
from collections.abc import Iterator

from killable import job


@job
def much() -> Iterator[str]:
    """Yield and return some 30 MB each."""
    for _ in range(450):
        yield "x" * 65536
    return "y" * (30 << 20)


@job
def large() -> Iterator[str]:
    """Yield one token of as much."""
    yield "x" * (30 << 20)
'''
READERS = 20
MB_MAX = 60
"""More than one copy of it all, of which there are two in the log; a copy for each reader were 600."""


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """Executed, and not a fork: its memory is looked at."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "much.py").write_text(JOBS)
    started = SharedServer(Command(folder, program=COMMAND), "much.py", "--port", "0")
    yield started
    started.close()


@pytest.mark.parametrize(
    ("type", "what"), [("much", "stream"), ("much", "output"), ("much", "result"), ("large", "output")]
)
def test_a_reader_that_takes_little_holds_little(server: Server, type: str, what: str) -> None:
    job = httpx.post(f"{server.url}/v1/jobs", json={"type": type}, headers={"prefer": "wait=60"}, timeout=90).json()
    assert job["state"] == "completed", job
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    address = urlsplit(server.url)
    readers = []
    for _ in range(READERS):
        reader = socket.create_connection((address.hostname or "", address.port or 0), timeout=60)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.sendall(f"GET /v1/jobs/{job['job_id']}/{what} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        readers.append(reader)
    for reader in readers:
        assert reader.recv(12) == b"HTTP/1.1 200"

    def answers() -> bool | Pending:
        """The loop has turned for all of them: what it prepares for each it has prepared."""
        return client.get("/livez").status_code == 200 or Pending("no answer")

    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(50):
            until(answers, "it answers")
    grown = process.memory_info().rss - before
    for reader in readers:
        reader.close()
    assert grown >> 20 < MB_MAX, grown
