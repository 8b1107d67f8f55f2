"""How many processes run the suite: what `--numprocesses auto` means, which `make test` and `nox` say."""

from __future__ import annotations

import os

import pytest

MORE_THAN_PROCESSORS = 3
"""Many tests wait for a grace, a deadline, a death: others run meanwhile. With many more it takes longer: each collects
all tests, and they are in each other's way (two processors: 158 s with 7 for what took 114 s with 4).
"""


@pytest.hookimpl(optionalhook=True)  # the environment of the tests over Ray has no xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes that run the tests."""
    return len(os.sched_getaffinity(0)) + MORE_THAN_PROCESSORS
