"""Fixtures of the Executor's tests.

An Executor that starts takes longer than most tests. One is shared by those of a module that neither end nor change it.
A module whose tests need their own has a fixture `executor` that is `own_executor`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.processes import shared_servers
from support.shared_executor import SharedExecutor

from killable import Executor


@pytest.fixture(scope="module")
def shared_executor(nothing_left_of_module: None) -> Iterator[SharedExecutor]:
    with Executor(max_workers=2, grace_s=10) as made:
        shared = SharedExecutor(made)
        shared_servers.add(shared.guard)
        try:
            yield shared
        finally:
            shared_servers.discard(shared.guard)
            made.kill_workers()


@pytest.fixture
def executor(shared_executor: SharedExecutor) -> Iterator[Executor]:
    """The module's, of two workers, whose calls may clean up for ten seconds."""
    yield shared_executor.executor
    shared_executor.tidy()


@pytest.fixture
def own_executor() -> Iterator[Executor]:
    """The same for the test alone."""
    with Executor(max_workers=2, grace_s=10) as made:
        yield made
        made.kill_workers()  # what a failed test has left may wait for what nobody will do
