"""The real and the simulated implementation of the ports, each shared by all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_and_fake_stages import FakeSide, RealSide, Side
from support.supervisor_fixture import PROOFS


@pytest.fixture(scope="module", params=["fake", *PROOFS])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    chosen: Side = FakeSide() if request.param == "fake" else RealSide(request.param)
    try:
        chosen.warm()
        yield chosen
    finally:
        chosen.close()
