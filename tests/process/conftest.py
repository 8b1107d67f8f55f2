"""A test that claims codes of endings by `pytest.mark.code` must have seen jobs end with them.

A supervisor that starts takes longer than most tests: those of a module with a `SHARED_POOL`, which has to have one
event loop for all its tests, share the supervisors that have this pool and no settings but a proof.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
import pytest_asyncio
from job_runs import ENDED_WITH
from support.engines import new_supervisor
from support.shared_supervisor import SharedSupervisors
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry import readiness


@pytest.fixture(autouse=True)
def about_no_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here is about a supervisor that is degraded as it got no processor for half a second."""
    monkeypatch.setattr(readiness, "STALL_S", 60.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_supervisor(
    nothing_left_of_module: None, request: pytest.FixtureRequest
) -> AsyncIterator[SharedSupervisors]:
    shared = SharedSupervisors(request.module.SHARED_POOL)
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shared_or_own_supervisor(shared_supervisor: SharedSupervisors) -> AsyncIterator[StartSupervisor]:
    """Give one of the module's to who asks for its pool, and start one for any other."""
    started: list[Supervisor] = []

    async def start(*pools: PoolSpec, **settings: Any) -> Supervisor:
        if shared := await shared_supervisor.get(pools, settings):
            return shared
        started.append(one := new_supervisor(Settings(pools=pools, **settings)))
        await one.start()
        return one

    yield start
    for one in reversed(started):
        await one.close(grace_s=0)
    await shared_supervisor.tidy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked with codes of endings, and passes, has seen jobs end with them."""
    marked = {code for marker in item.iter_markers("code") for code in marker.args}
    ENDED_WITH.clear()
    passed = yield
    assert marked <= ENDED_WITH, f"no job of the test has ended with {marked - ENDED_WITH}"
    return passed
