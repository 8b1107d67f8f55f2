"""One browser, and one server without keys, for the tests of a module; a tab for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Shown, chromium
from page_jobs import JOBS
from playwright.sync_api import Browser
from support.killable_command import Command, SharedServer, client_of
from support.long_wait_server import LONG_WAITS

from killable.api.client.client import Client

SETTINGS = '[pools.main]\nmodule = "./my_jobs.py"\nworkers = 3\n'
SHARED = ("browser", "page_server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set up what is shared before what looks for the test's own processes and descriptors."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name == "page" and "browser" in item.fixturenames:
            for name in SHARED:
                if name in item.fixturenames:
                    item.fixturenames.remove(name)
                    item.fixturenames.insert(item.fixturenames.index("nothing_left"), name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "my_jobs.py").write_text(JOBS)
    (folder / "killable.toml").write_text(SETTINGS)
    server = SharedServer(Command(folder, constants=LONG_WAITS), "--port", "0")
    yield server
    server.close()


@pytest.fixture
def client(page_server: SharedServer) -> Iterator[Client]:
    with client_of(page_server.url) as client:
        yield client
    page_server.tidy()


@pytest.fixture
def shown(browser: Browser, page_server: SharedServer, client: Client) -> Iterator[Shown]:
    """The page in a tab; whatever the test has done, nothing went wrong in it, and it has asked nobody else."""
    shown = Shown(browser, page_server.url)
    yield shown
    shown.close()
    assert shown.faults == []
    assert [url for url in shown.requests if not url.startswith((page_server.url, "data:", "blob:"))] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    return tmp_path
