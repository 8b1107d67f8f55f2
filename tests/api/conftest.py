"""Fixtures of the HTTP tests. The server, its supervisor and its workers are real; nothing is mocked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from api_server import Server, StartServer, serve


@pytest.fixture(autouse=True)
def about_something_else(long_exit_waits: None) -> None:
    """No test here is about how a worker leaves whose job is over."""


@pytest.fixture
def start_server() -> StartServer:
    """Start a server with settings of one's own: `async with start_server(workers=1) as server`."""
    return serve


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as running:
        yield running
