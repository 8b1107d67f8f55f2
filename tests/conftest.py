"""Fixtures for every test: the check that nothing is left behind, and a real supervisor."""

# ruff: noqa: E402

from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Each process of pytest-xdist imports every test, and killable, whose asserts pytest rewrites too, as it has a plugin:
both take longer where they have to be rewritten anew. So it comes first of all, and what they start inherits it.
"""

import asyncio
import gc
import inspect
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from number_of_processes import pytest_xdist_auto_num_workers as pytest_xdist_auto_num_workers  # a hook
from support.engine_skips import DIFFERS
from support.engines import ENGINE, new_supervisor
from support.forked_command import start_importing
from support.hung_tests import pytest_configure as pytest_configure
from support.hung_tests import pytest_runtest_protocol as pytest_runtest_protocol
from support.nothing_left import LEAVE_S, leaves_no_task, leaves_nothing
from support.processes import started_by_tests
from support.shared_supervisor import SharedSupervisors
from support.supervisor_fixture import (
    CGROUP_PROOF,
    LONG_DUMP_WAITS,
    LONG_EXIT_WAITS,
    NEEDS_CGROUPS,
    PROOFS,
    StartSupervisor,
)
from support.waiting import until_empty

from killable.supervisor.attempts import attempt, escalation
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

gc.disable()
"""Until all tests are collected: next to nothing of that is garbage, and each process collects them all."""

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup(1): what the tests start would have that, too, and some tests send it.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell script that starts this with & has had it ignored (POSIX, Shell 2.12), and everything that a test starts
    # would inherit that: nothing would hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _imported() -> Iterator[None]:
    """The process that the command is forked from is no test's own: it is there for each, in any order.

    When the last test is over, nothing else is there.
    """
    start_importing()
    yield
    until_empty(lambda: started_by_tests(afresh=True), "the tests leave no process behind", LEAVE_S)


# ── nothing is left ──


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test descriptors, threads, processes and cgroups are as before. It ends after the test's event loop,
    whose executor's threads are gone by then.

    Descriptors, threads and cgroups of what tests share come and go with its workers; they are looked at when it is
    over.
    """
    shares = {"shared_executor", "shared_supervisor"}.intersection(request.fixturenames)
    with leaves_nothing("the test", ("descriptors", "threads", "cgroups") if shares else ()):
        yield


@pytest.fixture(scope="module")
def nothing_left_of_module() -> Iterator[None]:
    """The same after all tests of a module, and what they shared. Where pytest captures output is its own matter."""
    with leaves_nothing("the module", besides=("streams",)):
        yield


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """After each test no task is left; put in front of every asynchronous one, as closing the loop would end them.

    But one that sse-starlette has in each loop that has streamed, until the loop is closed.
    """
    async with leaves_no_task():
        yield


@pytest_asyncio.fixture(loop_scope="module")
async def no_task_left_in_module(shared_supervisor: SharedSupervisors) -> AsyncIterator[None]:
    """The same where the tests of a module have one loop. A head that they share has tasks of its own to the end."""
    async with leaves_no_task(lambda: shared_supervisor.tasks):
        yield


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no collector has to go through it."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        # One of several processes: a test that takes a minute is not to begin when the others have ended. These are
        # those whose timeout is their own. All of them stay together, and so share what they share.
        items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    for item in items:
        if ENGINE == "cluster":
            names = (item.path.name, item.name.partition("[")[0], item.name)
            for why in (DIFFERS[name] for name in names if name in DIFFERS):
                item.add_marker(pytest.mark.skip(reason=why))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # Right behind the guard above: set up before, and so ended after, everything that the test asks for.
            guard = "no_task_left_in_module" if "shared_supervisor" in item.fixturenames else "no_task_left"
            item.fixturenames.insert(item.fixturenames.index("nothing_left") + 1, guard)
        callspec = getattr(item, "callspec", None)
        if callspec is not None and CGROUP_PROOF in callspec.params.values():
            item.add_marker(NEEDS_CGROUPS)


# ── a real supervisor ──


@pytest.fixture
def long_dump_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack is waited for until it is written: on a busy machine a process may be long without a processor."""
    for name, s in LONG_DUMP_WAITS.items():
        monkeypatch.setattr(escalation, name, s)


@pytest.fixture
def long_exit_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose job is over has long to leave, for the same reason."""
    for name, s in LONG_EXIT_WAITS.items():
        monkeypatch.setattr(attempt, name, s)


@pytest.fixture(params=PROOFS)
def proof(request: pytest.FixtureRequest) -> str:
    """Run the test once per proof that a tree is empty."""
    chosen: str = request.param
    return chosen


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[StartSupervisor]:
    """Start supervisors with pools of one's own: `await supervisor(pool, proof=proof)`.

    An exception that ends in the event loop's handler is a failure: nobody else hears of it.
    """
    started: list[Supervisor] = []
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))

    async def start(*pools: PoolSpec, **settings: Any) -> Supervisor:
        one = new_supervisor(Settings(pools=pools, **settings))
        started.append(one)
        await one.start()
        return one

    yield start
    for one in reversed(started):
        await one.close(grace_s=0)
    assert not unhandled, unhandled
