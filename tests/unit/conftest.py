"""A scripted server and clients of it. Each test with a client runs with Client and with AsyncClient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.blocking_client import BlockingClient, MakeClient, OneClient
from support.scripted_server import Script, scripted

from killable.api.client.client import Client


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as server:
        yield server


@pytest.fixture(params=[Client, BlockingClient], ids=["Client", "AsyncClient"])
def make_client(request: pytest.FixtureRequest, script: Script) -> Iterator[MakeClient]:
    """Make clients of the scripted server, closed at the end."""
    made = []

    def make(
        url: str | None = script.url, *, transport: httpx.MockTransport | None = None, **options: Any
    ) -> OneClient:
        if transport is not None:  # the exact pieces, which a socket may join
            options["http"] = (httpx.Client if request.param is Client else httpx.AsyncClient)(transport=transport)
        made.append(request.param(url, **options))
        one: OneClient = made[-1]
        return one

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client(make_client: MakeClient) -> OneClient:
    return make_client()
