"""A server without a descriptor for the next connection: it waits, says so once, and goes on when it has one."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.waiting import Pending, until_async

from killable.api.cli.server import acceptor as module
from killable.api.cli.server.acceptor import Acceptor

CONNECTS = """
import socket, sys
open_ = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print("connected", flush=True)
sys.stdin.read()
"""


@contextmanager
def clients(port: int, number: int) -> Iterator[None]:
    """Connections of another process, whose descriptors are its own."""
    command = [sys.executable, "-c", CONNECTS, str(port), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield
        process.communicate("")


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """The limit is on the number of a descriptor; there may be gaps below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open("/dev/null", os.O_RDONLY) for _ in range(number)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Peers:
    """The server's side of all connections."""

    def __init__(self) -> None:
        self.open: list[asyncio.Transport] = []
        self.room_asked = 0
        self.closes = False

    def protocol(self) -> asyncio.Protocol:
        peers = self

        class Peer(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                peers.open.append(transport)

        return Peer()

    def make_room(self) -> bool:
        self.room_asked += 1
        if self.closes and self.open:
            self.open.pop(0).close()
            return True
        return False

    async def until(self, number: int) -> None:
        async def there() -> Any:
            return len(self.open) >= number or Pending(len(self.open))

        await until_async(there, f"{number} connections are accepted")


@contextmanager
def accepting(sock: socket.socket, peers: Peers) -> Iterator[Acceptor]:
    acceptor = Acceptor(sock, peers.protocol, peers.make_room)
    try:
        yield acceptor
    finally:
        acceptor.close()
        for transport in peers.open:
            transport.abort()


async def test_without_descriptors_it_pauses_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    peers = Peers()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as sock,
        clients(sock.getsockname()[1], 60),
        accepting(sock, peers) as acceptor,
    ):
        with caplog.at_level(logging.WARNING), descriptors_left(4):

            async def tried() -> Any:
                return peers.room_asked >= 5 or Pending(peers.room_asked)

            await until_async(tried, "it has tried again and again")
            assert len(peers.open) < 60
            assert acceptor.trouble == "connections wait to be accepted: too many open files"
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in said] == ["accept_paused"], "one line, and nothing of asyncio's"
        await peers.until(60)
        monkeypatch.setattr(module, "TROUBLE_S", -1.0)
        assert acceptor.trouble == ""
    await asyncio.sleep(0)  # they are closed in the next turn


async def test_a_connection_that_rests_makes_room_for_the_next(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers()
    peers.closes = True
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as sock,
        clients(sock.getsockname()[1], 40),
        accepting(sock, peers),
    ):
        with caplog.at_level(logging.WARNING), descriptors_left(4):

            async def all_came() -> Any:
                return peers.room_asked >= 36 or Pending(peers.room_asked)

            await until_async(all_came, "each had its turn, in place of an older one")
        await peers.until(4)
        assert len(caplog.records) == 1
    await asyncio.sleep(0)  # they are closed in the next turn
