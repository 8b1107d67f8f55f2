"""The fixtures that pytest has when killable is installed: a server of your jobs, and a context for unit tests.

Runs in: any machine. Found by its entry point in each run of pytest: nothing is imported until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from killable.api.testing.job_server import JobServer
    from killable.api.testing.unit_context import UnitContext


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "the file or module of jobs that the fixture killable_server serves; default: what killable.toml names"
    parser.addini("killable_jobs", help, default="")


@pytest.fixture(scope="session")
def killable_arguments() -> list[str]:
    """Further arguments of `killable serve` for the fixture `killable_server`. Override it in your conftest.py."""
    return []


@pytest.fixture(scope="session")
def killable_server(pytestconfig: pytest.Config, killable_arguments: list[str]) -> Iterator[JobServer]:
    """A server of your jobs for the whole session: of the ini option `killable_jobs`, or of killable.toml."""
    from killable.api.testing.job_server import JobServer

    target: str = pytestconfig.getini("killable_jobs")
    with JobServer(target or None, *killable_arguments, folder=pytestconfig.rootpath) as server:
        yield server


@pytest.fixture
def killable_context(tmp_path: Path) -> UnitContext:
    """A context for a unit test; its `tmp` is below the test's `tmp_path`."""
    from killable.api.testing.unit_context import UnitContext

    return UnitContext(tmp=tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Show the end of the server's log below a test that failed with it."""
    report = yield
    server = getattr(item, "funcargs", {}).get("killable_server")
    if report.failed and server is not None:
        report.sections.append(("killable serve", server.log()[-LOG_CHARS:]))
    return report


LOG_CHARS = 4000
"""Of the server's log, below a test that failed."""
