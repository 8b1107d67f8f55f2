"""The head of an answer goes out with what follows it, over a real socket.

The other end is asked without waiting: what was written is there at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from killable.api.cli.server.head_with_body import HeadWithBody

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[HeadWithBody, socket.socket]]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    try:
        yield HeadWithBody(transport, loop), theirs
    finally:
        transport.abort()
        theirs.close()
        await asyncio.sleep(0)  # the transport closes its socket


def arrived(theirs: socket.socket) -> bytes | None:
    """Return what has come: b"" at the end of it; None: nothing."""
    try:
        return theirs.recv(1 << 16)
    except BlockingIOError:
        return None


async def test_a_head_goes_out_with_what_follows_it() -> None:
    async with connected() as (transport, theirs):
        transport.write(HEAD)
        assert arrived(theirs) is None
        transport.write(b"ok")
        assert arrived(theirs) == HEAD + b"ok"
        transport.write(b"more")
        assert arrived(theirs) == b"more"


async def test_a_head_alone_goes_out_before_the_next_turn() -> None:
    async with connected() as (transport, theirs):
        transport.write(HEAD)
        await asyncio.sleep(0)
        assert arrived(theirs) == HEAD
        transport.write(HEAD)
        transport.write(b"ok")
        await asyncio.sleep(0)
        assert arrived(theirs) == HEAD + b"ok"


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_an_end_comes_behind_a_head_that_waits(end: str) -> None:
    async with connected() as (transport, theirs):
        transport.write(HEAD)
        getattr(transport, end)()
        assert arrived(theirs) == HEAD
        await asyncio.sleep(0)
        assert arrived(theirs) == b""


async def test_an_abort_drops_a_head_that_waits() -> None:
    async with connected() as (transport, theirs):
        transport.write(HEAD)
        transport.abort()
        await asyncio.sleep(0)
        assert arrived(theirs) == b"" and transport.is_closing()
