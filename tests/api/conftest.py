"""Fixtures of the HTTP tests: nothing is replaced, the server, its supervisor and its workers are real."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from serving import Server, StartServer, serve

from killable.supervisor import attempt


@pytest.fixture(autouse=True)
def patient_with_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a worker may be without a processor when its job is over: no test here is about its leaving."""
    monkeypatch.setattr(attempt, "LEAVE_S", 60.0)


@pytest.fixture
def start_server() -> StartServer:
    """Start a server with settings of one's own: `async with start_server(workers=1) as server`."""
    return serve


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as running:
        yield running
