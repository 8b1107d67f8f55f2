"""The trees of the sources are there while contracts are checked on them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from contract.source import forget_trees


@pytest.fixture(scope="package", autouse=True)
def trees() -> Iterator[None]:
    """A million nodes, in no circle: the collector finds nothing in them, and takes a second each time to see that."""
    gc.disable()
    yield
    forget_trees()
    gc.enable()
