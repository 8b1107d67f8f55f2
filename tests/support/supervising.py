"""The type of the fixture `supervisor`."""

from __future__ import annotations

from typing import Any, Protocol

from killable.supervisor.service import Supervisor
from killable.supervisor.settings import PoolSpec


class StartSupervisor(Protocol):
    async def __call__(self, *pools: PoolSpec, **settings: Any) -> Supervisor:
        """Start a supervisor; `settings` are those of `Settings`. It is closed at the end of the test."""
        ...


PROOFS = ("cgroup+descendants", "descendants")
