"""Fixtures of the HTTP tests. The server, its supervisor and its workers are real; nothing is mocked.

A server that starts takes longer than most tests: one in a process of its own is shared by those of a module that do
not change it, nor look into it. Others have theirs in this process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from api_server import JOBS, LONG_CHECKS, POOL, Server, StartServer, client_of, serve
from support.engines import ENGINE
from support.killable_command import Command, SharedServer
from support.long_wait_server import LONG_WAITS

from killable.api.http import failed_keys


@pytest.fixture(autouse=True)
def about_something_else(long_exit_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here is about how a worker leaves whose job is over, nor about when wrong keys are forgotten: dozens of
    requests may take a busy machine longer than that.
    """
    monkeypatch.setattr(failed_keys, "WINDOW_S", 3600.0)


@pytest.fixture
def start_server() -> StartServer:
    """Start a server with settings of one's own: `async with start_server(workers=1) as server`."""
    return serve


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if item.path.parent.name == "api" and "server" in getattr(item, "fixturenames", ()) and _shares(item):
            # Set up before what looks for the test's own processes.
            item.fixturenames.insert(item.fixturenames.index("nothing_left"), "shared_server")


def _shares(item: pytest.Item) -> bool:
    """With ENGINE=cluster every test has its own server: one in another process has no nodes in this one."""
    return ENGINE != "cluster" and item.get_closest_marker("own_server") is None


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("shared")
    pool = {"module": str(JOBS), **POOL}
    settings = f"[server]\ninput_check_s = {LONG_CHECKS.input_check_s}\n[pools.tests]\n"
    (folder / "killable.toml").write_text(settings + "".join(f"{name} = {pool[name]!r}\n" for name in pool))
    server = SharedServer(Command(folder, constants=LONG_WAITS), "--port", "0")
    yield server
    server.close()


@pytest_asyncio.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The module's server, or with the marker `own_server` one in this process, for the test alone."""
    if not _shares(request.node):
        async with serve() as running:
            yield running
        return
    shared: SharedServer = request.getfixturevalue("shared_server")
    async with client_of(shared.url) as client:
        yield Server(client)
    shared.tidy()
