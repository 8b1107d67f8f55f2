"""Connections that are read by turns."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import ExitStack

from killable.api.cli.server.reading_turns import OPEN_MAX, READ_BYTES, READS_MAX, ConnectionReading, ReadingTurns
from killable.api.http.operators_first import Precedence

FEW = 10


class Peer(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, stage: Stage, source: str) -> None:
        self.stage = stage
        self.source = source
        self.reading: ConnectionReading | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.reading = self.stage.turns.join(transport, self.source)

    def data_received(self, data: bytes) -> None:
        self.stage.read.append((self.stage.turn, self.source, data))
        if self.reading is not None:
            self.reading.done(watches=False)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.reading is not None:
            self.reading.left()
        self.stage.left += 1


class Stage:
    """Connections over socket pairs, and what was read of them in which turn of the loop."""

    def __init__(self, clients: ExitStack) -> None:
        self.precedence = Precedence()
        self.turns = ReadingTurns(self.precedence)
        self.turn = self.left = 0
        self.read: list[tuple[int, str, bytes]] = []
        self._clients = clients

    async def connect(self, source: str) -> tuple[socket.socket, Peer]:
        client, server = socket.socketpair()
        self._clients.enter_context(client)
        server.setblocking(False)
        _, peer = await asyncio.get_running_loop().connect_accepted_socket(lambda: Peer(self, source), server)
        return client, peer

    async def until_read(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.read) < number:
                self.turn += 1
                await asyncio.sleep(0)

    async def until_left(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.left < number:
                await asyncio.sleep(0)


async def test_a_few_are_read_in_a_turn_and_sources_alternate() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        crowd = [(await stage.connect("a"))[0] for _ in range(FEW)]
        other, _ = await stage.connect("b")
        for client in (*crowd, other):
            client.sendall(b"x")
        await stage.until_read(FEW + 1)
        turns = [turn for turn, _, _ in stage.read]
        assert max(turns.count(turn) for turn in turns) <= READS_MAX
        assert "b" in [source for _, source, _ in stage.read[: READS_MAX + 2]]
        crowd[0].sendall(b"again")
        await stage.until_read(FEW + 2)
        for client in (*crowd, other):
            client.close()
        await stage.until_left(FEW + 1)
        assert stage.turns._epoll is None, "it has no descriptor that it does not need"


async def test_those_that_were_read_last_stay_open_and_the_others_wait_for_their_turn() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        few = [(await stage.connect("a"))[0] for _ in range(OPEN_MAX + 2)]
        for _ in range(2):
            for client in few:
                before = len(stage.read)
                client.sendall(b"x")
                await stage.until_read(before + 1)
                assert len(stage.turns._open) <= OPEN_MAX
        few[-1].sendall(b"open")
        before = len(stage.read)
        await stage.until_read(before + 1)
        assert len(stage.turns._open) == OPEN_MAX
        for client in few:
            client.close()
        await stage.until_left(len(few))
        assert not stage.turns._open


async def test_what_one_sends_comes_in_parts() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        client, peer = await stage.connect("a")
        client.sendall(b"x" * 3 * READ_BYTES)
        await stage.until_read(3)
        assert [len(data) for _, _, data in stage.read] == [READ_BYTES] * 3
        peer.transport.close()
        await stage.until_left(1)


async def test_a_connection_that_is_not_wanted_is_not_read_until_it_is() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        (quiet, peer), (client, _) = await stage.connect("a"), await stage.connect("b")
        assert peer.reading is not None
        peer.reading.pause_reading()
        quiet.sendall(b"later")
        for number in range(FEW):
            client.sendall(b"x")
            await stage.until_read(number + 1)
        assert {source for _, source, _ in stage.read} == {"b"}
        peer.reading.resume_reading()
        await stage.until_read(FEW + 1)
        assert stage.read[-1][2] == b"later"
        quiet.close()
        client.close()
        await stage.until_left(2)


async def test_none_is_read_while_an_operators_request_is_answered() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        client, _ = await stage.connect("a")
        end = stage.precedence.hold()
        client.sendall(b"x")
        for _ in range(FEW):
            await asyncio.sleep(0)
        assert stage.read == []
        end()
        await stage.until_read(1)
        client.close()
        await stage.until_left(1)


async def test_without_a_descriptor_the_loop_reads_it() -> None:
    with ExitStack() as clients:
        stage = Stage(clients)
        client, server = socket.socketpair()
        clients.enter_context(client)
        server.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            loop = asyncio.get_running_loop()
            _, peer = await loop.connect_accepted_socket(lambda: Peer(stage, "a"), server)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert peer.reading is None
        client.sendall(b"x")
        await stage.until_read(1)
        client.close()
        await stage.until_left(1)
