"""What a test of this folder says about itself has to be true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trials import ENDED_WITH


@pytest.fixture(autouse=True)
def reached_its_codes(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is marked with codes of endings has seen jobs end with them."""
    marked = {code for marker in request.node.iter_markers("code") for code in marker.args}
    ENDED_WITH.clear()
    yield
    assert marked <= ENDED_WITH, f"no job of the test has ended with {marked - ENDED_WITH}"
