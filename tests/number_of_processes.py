"""How many processes run the suite: what `--numprocesses auto` means, which `make test` and `nox` say."""

from __future__ import annotations

import os

import pytest

MORE_THAN_PROCESSORS = 2
"""Many tests wait for a grace, a deadline, a death: others run meanwhile. With more of them it takes longer: each
collects all tests, and they are in each other's way. 7 on two processors needed 158 s for what 4 did in 114 s.
"""


@pytest.hookimpl(optionalhook=True)  # the environment of the tests over Ray has no xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes that run the tests."""
    return len(os.sched_getaffinity(0)) + MORE_THAN_PROCESSORS
