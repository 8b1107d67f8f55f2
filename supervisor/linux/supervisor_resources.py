"""The machine resources of one supervisor besides its pools: its cgroup directory and its temporary folder.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter

from killable.supervisor import event_loops
from killable.supervisor.linux import cgroup, orphan_cleanup
from killable.supervisor.linux.cgroup import CgroupRoot
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.instance_id import InstanceId
from killable.supervisor.linux.oom_counter import OomCounter
from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.temporary_folder import make_folder
from killable.supervisor.linux.zygote_watchdog import ANSWER_S
from killable.supervisor.ports import SpawnerListener
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.runtime import leftover_memory
from killable.workers.runtime.tmp_removal import remove_tree

logger = logging.getLogger("killable.system")


class SupervisorResources:
    """The machine resources of one supervisor, from its start to its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: InstanceId,
        instance_id: str,
        cgroups: CgroupRoot | None,
        tmp: str,
        patience_s: float,
        early_guard: EarlyGuard | None,
    ) -> None:
        """`patience_s`: how long killed processes may take to disappear. `early_guard`: the first guard of the only
        pool, if it is started already.
        """
        self.loop = loop
        self.owner = owner
        self.instance_id = instance_id
        self.cgroups = cgroups
        self.tmp = tmp
        self.oom = OomCounter()
        self.patience_s = patience_s
        self.early_guard = early_guard
        self.answer_s = ANSWER_S
        self.spawners: list[PoolSpawner] = []
        self.generations: Counter[str] = Counter()
        """How often the code of each pool was loaded, also in vain."""

    @classmethod
    def open(
        cls,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        instance_id: str,
        early_guard: EarlyGuard | None = None,
    ) -> SupervisorResources:
        """Choose the proof that the machine allows, and make the folders. Raise OSError."""
        _require_pidfd()
        owner = InstanceId.of(os.getpid())
        assert owner is not None
        early = None if early_guard is None else early_guard.take_folder()
        if early is not None:
            return cls(loop, owner, instance_id, early.cgroups, early.tmp, settings.unkillable_s, early_guard)
        cgroups = None if settings.proof == "descendants" else cgroup.find_root(instance_id[:8])
        if settings.proof == "cgroup+descendants" and cgroups is None:
            raise OSError(0, "KILLABLE_PROOF asks for a cgroup, and no writable cgroup2 directory was found")
        try:
            tmp = make_folder(owner.folder_prefix)
        except OSError:
            if cgroups is not None:
                cgroups.remove()
            raise
        return cls(loop, owner, instance_id, cgroups, tmp, settings.unkillable_s, early_guard)

    async def sweep_orphans(self) -> bool:
        """End what dead supervisors left, for it may hold what this one needs; return whether that was done in time."""
        finished = asyncio.Event()
        orphan_cleanup.sweep_in_thread(lambda: event_loops.tell(self.loop, finished.set))
        in_time = await event_loops.wait_within(finished, orphan_cleanup.SWEEP_S)
        if not in_time:
            logger.error("sweep_goes_on", extra={"detail": f"not finished after {orphan_cleanup.SWEEP_S:g} s"})
        return in_time

    def open_spawner(self, spec: PoolSpec, listener: SpawnerListener) -> PoolSpawner:
        self.spawners = [spawner for spawner in self.spawners if not spawner.is_closed]
        self.generations[spec.name] += 1
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
            generation=self.generations[spec.name],
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
        if self.cgroups is not None:
            self.cgroups.remove()  # the thread has removed the groups of workers
        try:
            await event_loops.in_thread(self.loop, self._remove_tmp)
        except RuntimeError:  # no thread can be started
            self._remove_tmp()
        await event_loops.threads_are_done(self.patience_s)

    def _remove_tmp(self) -> None:
        leftover_memory.remove_all(self.tmp)
        remove_tree(self.tmp)
        if os.path.isdir(self.tmp):
            remove_tree(self.tmp)  # the first try may have lacked a descriptor


def _require_pidfd() -> None:
    """Raise OSError where pidfd_open(2) is not allowed (seccomp): there is no fallback to bare pids."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise OSError(error.errno or 0, f"pidfd_open is not available here: {error.strerror}") from error
