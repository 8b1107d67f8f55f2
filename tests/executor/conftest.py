"""Fixtures of the Executor's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from killable import Executor


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One of two workers, whose calls may clean up for ten seconds."""
    with Executor(max_workers=2, grace_s=10) as made:
        yield made
        made.kill_workers()  # what a failed test has left may wait for what nobody will do
