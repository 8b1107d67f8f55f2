"""How many processes run the suite: what `--numprocesses auto` means, which `make test` and `nox` say."""

from __future__ import annotations

import os

import pytest

MORE_THAN_PROCESSORS = 5
"""Many tests wait for a grace, a deadline, a death: others run meanwhile."""


@pytest.hookimpl(optionalhook=True)  # the environment of the tests over Ray has no xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes that run the tests."""
    return len(os.sched_getaffinity(0)) + MORE_THAN_PROCESSORS
