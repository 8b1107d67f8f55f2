"""A test that claims codes of endings by `pytest.mark.code` must have seen jobs end with them."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from job_runs import ENDED_WITH


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked with codes of endings, and passes, has seen jobs end with them."""
    marked = {code for marker in item.iter_markers("code") for code in marker.args}
    ENDED_WITH.clear()
    passed = yield
    assert marked <= ENDED_WITH, f"no job of the test has ended with {marked - ENDED_WITH}"
    return passed
