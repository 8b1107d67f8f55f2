"""How many processes run the suite: what `--numprocesses auto` means, which `make test` and `nox` say."""

from __future__ import annotations

import os

import pytest

MORE_THAN_PROCESSORS = 2
"""Many tests wait for a grace, a deadline, a death: others run meanwhile. More of them are slower: each process collects
all tests, and on two processors 7 needed 158 s for what 4 needed 114 s for (3: 116 s).
"""


@pytest.hookimpl(optionalhook=True)  # the environment of the tests over Ray has no xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes that run the tests."""
    return len(os.sched_getaffinity(0)) + MORE_THAN_PROCESSORS
