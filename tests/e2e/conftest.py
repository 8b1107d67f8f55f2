"""A user's folder with a file of jobs, the command in it, and servers that end with their test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import user_jobs
from support.forked_command import Constants
from support.killable_command import Command, Serve, Server, SharedServer
from support.long_wait_server import NO_STALLS
from support.otlp_collector import Collector, collecting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `my_jobs.py` in it."""
    shutil.copy(user_jobs.__file__, tmp_path / "my_jobs.py")
    return tmp_path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers; none outlives the test."""
    started: list[Server] = []

    def start(*args: str, program: Sequence[str] = (), constants: Constants | None = None, **options: Any) -> Server:
        started.append(Server(Command(tmp_path, program=program, constants=constants), *args, **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of OpenTelemetry on this machine, until the test is over."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """One server for all tests of a module that do not ask for their own, with its JOBS, if it has some."""
    folder = tmp_path_factory.mktemp("shared")
    jobs = getattr(request.module, "JOBS", Path(user_jobs.__file__).read_text())
    (folder / "my_jobs.py").write_text(jobs)
    server = SharedServer(Command(folder, constants=NO_STALLS), "my_jobs.py", "--port", "0")
    yield server
    server.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "server" in item.fixturenames and _shares(item):
            # Set up before what looks for the test's own processes; and only for a test that uses it.
            item.fixturenames.insert(item.fixturenames.index("nothing_left"), "shared_server")


def _shares(item: pytest.Item) -> bool:
    return "serve" in item.fixturenames and item.get_closest_marker("own_server") is None


@pytest.fixture
def server(request: pytest.FixtureRequest, folder: Path, serve: Serve) -> Iterator[Server]:
    """The module's server, or with the marker `own_server` one of the test's own, in its folder."""
    if own := request.node.get_closest_marker("own_server"):
        yield serve("my_jobs.py", "--port", "0", **own.kwargs)
    else:
        shared: SharedServer = request.getfixturevalue("shared_server")
        yield shared
        shared.tidy()


@pytest.fixture
def url(shared_server: SharedServer) -> Iterator[str]:
    """The address of the module's server."""
    yield shared_server.url
    shared_server.tidy()


@pytest.fixture
def command(folder: Path, server: Server) -> Command:
    """The command, its server running."""
    return Command(folder, server.url)


@pytest.fixture
def gate(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "gate")
    return str(tmp_path / "gate")
