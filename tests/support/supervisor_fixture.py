"""The type and the options of the fixture `supervisor`: proofs, markers, long timeouts."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
from support import cgroup_v2

from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor


class StartSupervisor(Protocol):
    async def __call__(self, *pools: PoolSpec, **settings: Any) -> Supervisor:
        """Start a supervisor; `settings` are those of `Settings`. It is closed at the end of the test."""
        ...


CGROUP_PROOF = "cgroup+descendants"
PROOFS = (CGROUP_PROOF, "descendants")
NEEDS_CGROUPS = pytest.mark.skipif(
    not cgroup_v2.can_create(), reason="no group of cgroup v2 can be made here: not root, and none was delegated"
)

LONG_DUMP_WAITS = {"DUMP_S_MAX": 30.0, "DUMP_LATE_S_MAX": 30.0}
"""Of `escalation`: the time allowed for a stack dump before SIGKILL, in tests about something else.

A busy machine may keep a process from running for seconds. The real times are tested on virtual time:
tests/sim/test_grace.py, tests/sim/test_unkillable.py.
"""
LONG_EXIT_WAITS = {"LEAVE_S": 60.0}
"""Of `attempt`: the time allowed for a worker to exit after its job, likewise."""
