"""Connections that come faster than they can begin, and a server without a descriptor for the next one."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from support.waiting import Pending, until_async

from killable.api.cli.server import acceptor as module
from killable.api.cli.server.acceptor import ACCEPTED_MAX, Acceptor

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
        self.on_made: Callable[[], None] = lambda: None
        """Called when a connection has begun."""

    def protocol(self) -> asyncio.Protocol:
        peers = self

        class Peer(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                peers.open.append(transport)
                peers.on_made()

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


async def test_who_comes_from_elsewhere_begins_before_a_crowd_that_comes_and_leaves() -> None:
    peers, crowd = Peers(), list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        for number in range(100):
            crowd.append(socket.create_connection(sock.getsockname()))
            if number < 80:
                crowd[-1].close()
        with socket.create_connection(sock.getsockname(), source_address=("127.0.0.2", 0)), accepting(sock, peers):
            await peers.until(21)
            begun = [transport.get_extra_info("peername")[0] for transport in peers.open]
            assert "127.0.0.2" in begun[:20]

            async def all_began() -> Any:
                still = {client.getsockname() for client in crowd[80:]}
                began = {transport.get_extra_info("peername") for transport in peers.open}
                return still <= began or Pending(len(still - began))

            await until_async(all_began, "each that stays begins")
            assert len(peers.open) <= 60, "most of those that have left are only closed"
        for client in crowd:
            client.close()
    await asyncio.sleep(0)


async def test_who_waits_to_begin_is_let_go_at_the_close() -> None:
    peers = Peers()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock, ExitStack() as clients:
        waiting = [clients.enter_context(socket.create_connection(sock.getsockname())) for _ in range(ACCEPTED_MAX)]
        with accepting(sock, peers) as acceptor:
            peers.on_made = acceptor.close
            await peers.until(1)
            await asyncio.gather(*acceptor._adopting)  # some had their turns
            assert len(peers.open) < ACCEPTED_MAX, "most wait"
        await asyncio.sleep(0)  # those that had begun are closed
        for client in waiting:
            client.settimeout(20)
            assert client.recv(1) == b""
