"""The machine resources of one supervisor besides its pools: its cgroup directory and its temporary folder.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from dataclasses import dataclass, field

from killable.supervisor import event_loops
from killable.supervisor.linux import cgroup, orphan_cleanup
from killable.supervisor.linux.cgroup import CgroupRoot
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.instance_id import InstanceId
from killable.supervisor.linux.oom_counter import OomCounter
from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.zygote_host import ANSWER_S
from killable.supervisor.ports import SpawnerListener
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.runtime import memory_removal
from killable.workers.runtime.removal import remove_tree

logger = logging.getLogger("killable.system")


@dataclass(slots=True)
class System:
    """The machine resources of one supervisor, from its start to its end."""

    loop: asyncio.AbstractEventLoop
    owner: InstanceId
    instance_id: str
    cgroups: CgroupRoot | None
    tmp: str
    oom: OomCounter
    patience_s: float
    """How long killed processes may take to disappear, in seconds."""
    early_guard: EarlyGuard | None = None
    """The first guard of the only pool, if it is started already."""
    answer_s: float = ANSWER_S
    spawners: list[PoolSpawner] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        instance_id: str,
        early_guard: EarlyGuard | None = None,
    ) -> System:
        """Choose the proof that the machine allows, and make the folders. Raise OSError."""
        _require_pidfd()
        cgroups = None if settings.proof == "descendants" else cgroup.find_root(instance_id[:8])
        if settings.proof == "cgroup+descendants" and cgroups is None:
            raise OSError(0, "KILLABLE_PROOF asks for a cgroup, and no writable cgroup2 directory was found")
        try:
            owner = InstanceId.of(os.getpid())
            assert owner is not None
            tmp = tempfile.mkdtemp(prefix=owner.folder_prefix)
        except OSError:
            if cgroups is not None:
                cgroups.remove()
            raise
        return cls(loop, owner, instance_id, cgroups, tmp, OomCounter(), settings.unkillable_s, early_guard)

    async def sweep_orphans(self) -> bool:
        """End what dead supervisors left, for it may hold what this one needs; return whether that was done in time."""
        finished = asyncio.Event()
        orphan_cleanup.sweep_in_thread(lambda: event_loops.tell(self.loop, finished.set))
        in_time = await event_loops.wait_within(finished, orphan_cleanup.SWEEP_S)
        if not in_time:
            logger.error("sweep_goes_on", extra={"detail": f"not finished after {orphan_cleanup.SWEEP_S:g} s"})
        return in_time

    def open_spawner(self, spec: PoolSpec, listener: SpawnerListener) -> PoolSpawner:
        marker = self.owner.marker(self.instance_id, spec.name)
        spawner = PoolSpawner(
            self.loop,
            spec,
            listener,
            cgroups=self.cgroups,
            tmp=self.tmp,
            marker=marker,
            patience_s=self.patience_s,
            answer_s=self.answer_s,
            oom=self.oom,
            early_guard=self.early_guard,
        )
        self.spawners.append(spawner)
        return spawner

    def close_in_child(self) -> None:
        """Close the parent's descriptors in a fork of this process, and touch nothing else of the parent."""
        for spawner in self.spawners:
            spawner.close_in_child()
        self.oom.close()

    async def close(self) -> None:
        self.oom.close()
        await event_loops.threads_are_done(self.patience_s)
        try:
            await event_loops.in_thread(self.loop, self._remove_tmp)
        except RuntimeError:  # no thread can be started
            self._remove_tmp()
        if self.cgroups is not None:
            self.cgroups.remove()  # the last worker's own is gone when what it has left in memory was removed
        await event_loops.threads_are_done(self.patience_s)

    def _remove_tmp(self) -> None:
        memory_removal.remove_all(self.tmp)
        remove_tree(self.tmp)
        if os.path.isdir(self.tmp):
            remove_tree(self.tmp)  # the first try may have lacked a descriptor


def _require_pidfd() -> None:
    """Raise OSError where pidfd_open(2) is not allowed (seccomp): there is no fallback to bare pids."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise OSError(error.errno or 0, f"pidfd_open is not available here: {error.strerror}") from error
