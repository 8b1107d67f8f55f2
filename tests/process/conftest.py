"""What a test of this folder says about itself has to be true."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from trials import ENDED_WITH

from killable.supervisor import attempt, escalation


@pytest.fixture
def patient_with_dumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack is waited for until it is written: on a busy machine a process may be long without a processor."""
    for name in ("DUMP_S_MAX", "DUMP_IN_GRACE_S_MAX"):
        monkeypatch.setattr(escalation, name, 30.0)


@pytest.fixture
def patient_with_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose job is over has long to leave, for the same reason."""
    monkeypatch.setattr(attempt, "LEAVE_S", 60.0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked with codes of endings, and passes, has seen jobs end with them."""
    marked = {code for marker in item.iter_markers("code") for code in marker.args}
    ENDED_WITH.clear()
    passed = yield
    assert marked <= ENDED_WITH, f"no job of the test has ended with {marked - ENDED_WITH}"
    return passed
