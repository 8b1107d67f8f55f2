"""What tests ask of a supervisor: the type of the fixture, the proofs, and how long a patient one waits."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
from support import groups

from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor


class StartSupervisor(Protocol):
    async def __call__(self, *pools: PoolSpec, **settings: Any) -> Supervisor:
        """Start a supervisor; `settings` are those of `Settings`. It is closed at the end of the test."""
        ...


GROUPED = "cgroup+descendants"
PROOFS = (GROUPED, "descendants")
WITH_GROUPS = pytest.mark.skipif(
    not groups.can_be_made(), reason="no group of cgroup v2 can be made here: not root, and none was delegated"
)

PATIENT_WITH_DUMPS = {"DUMP_S_MAX": 30.0, "DUMP_IN_GRACE_S_MAX": 30.0}
"""Of `escalation`: how long a stack is waited for before SIGKILL, for tests that are about something else.

A busy machine may keep a process for seconds. How long it is waited for in fact is tested on virtual time, where no
machine is in the way: tests/sim/test_grace.py, tests/sim/test_unkillable.py.
"""
PATIENT_WITH_LEAVING = {"LEAVE_S": 60.0}
"""Of `attempt`: how long a worker whose job is over is waited for before SIGKILL, likewise."""
