"""What a pool's zygote is told: its Configure, and the order to fork a worker, with what goes along.

Runs in: supervisor, also in the thread of the program that makes an Executor (`early_guard`). Behind `ports`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from killable.supervisor import clock
from killable.supervisor.linux.cgroup import Cgroup, CgroupRoot
from killable.supervisor.linux.user_accounts import account
from killable.supervisor.linux.worker_pipes import WorkerPipes, open_pipes
from killable.supervisor.settings import PoolSpec
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import zygote_messages
from killable.workers.protocol.named_memory_log import CONFINED


class NewWorker(NamedTuple):
    """What a worker and the supervisor share, from before the fork on."""

    worker_id: str
    pipes: WorkerPipes
    cgroup: Cgroup | None
    since: float
    """When it was made, CLOCK_REALTIME seconds."""

    @classmethod
    def make(cls, worker_id: str, spec: PoolSpec, cgroups: CgroupRoot | None, cgroup: Cgroup | None = None) -> Self:
        """Make the pipes, and the cgroup if it is not made yet. Raise OSError, leaving nothing."""
        if cgroup is None and cgroups is not None:
            cgroup = cgroups.create(worker_id)
        try:
            return cls(worker_id, open_pipes(separate_stderr=bool(spec.setup)), cgroup, clock.realtime())
        except OSError:
            if cgroup is not None:
                cgroup.remove()
            raise

    def order(self, send: Callable[[zygote_messages.Fork, list[int]], None]) -> None:
        """Order the fork, and close what only the worker uses, also on failure. Raise OSError, and as `send`."""
        sent = list(self.pipes.theirs)
        try:
            if self.cgroup is not None:
                sent.append(self.cgroup.open_procs())
            send(zygote_messages.Fork(self.worker_id, cgroup=self.cgroup is not None), sent)
        finally:
            self.close_theirs()
            for descriptor in sent[len(self.pipes.theirs) :]:
                os.close(descriptor)

    def close_theirs(self) -> None:
        for descriptor in self.pipes.only_theirs:
            os.close(descriptor)

    def let_go(self) -> None:
        """Close what is the supervisor's: the worker leaves. `remove_cgroup` follows when it is gone."""
        for descriptor in (*self.pipes.ours, *self.pipes.line):
            if descriptor >= 0:
                os.close(descriptor)

    def remove_cgroup(self) -> None:
        if self.cgroup is not None:
            self.cgroup.remove()

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        self.let_go()
        if self.cgroup is not None:
            self.cgroup.close_in_child()


def configure_of(spec: PoolSpec, tmp: str, start_method: str, generation: int = 1) -> zygote_messages.Configure:
    """Return a pool's Configure, and write an Executor's setup to a file, since it may be too large for a message.

    `tmp` is the supervisor's folder. Raise OSError.
    """
    become = account(spec.user, spec.group)
    if become is not None:
        os.chmod(tmp, 0o711)  # each worker has a folder of its own in it
    return zygote_messages.Configure(
        pool=spec.name,
        modules=list(spec.modules),
        folder=spec.folder,
        start_method=start_method,
        codec=spec.codec,
        jobs_per_worker_max=spec.jobs_per_worker_max,
        nice=spec.nice,
        tmp=tmp,
        affinity=list(spec.affinity),
        core_dumps=spec.core_dumps,
        uid=None if become is None else become.uid,
        gid=None if become is None else become.gid,
        groups=[] if become is None else become.groups,
        account_env={} if become is None else {**become.environment, **spec.env},
        setup=_write_setup(spec, tmp),
        sandbox=spec.sandbox._asdict() if spec.sandbox.forbids else None,
        tmp_suffix=tmp_suffix(spec),
        files=spec.files,
        commands=[each._asdict() for each in spec.commands],
        generation=generation,
    )


def tmp_suffix(spec: PoolSpec) -> str:
    """Return the end of the names of the temporary directories of a pool's workers."""
    return CONFINED if spec.sandbox.keeps_from_shared_memory else ""


def _write_setup(spec: PoolSpec, tmp: str) -> str:
    """Return the path of the file; empty: the pool has no setup."""
    if not spec.setup:
        return ""
    path = os.path.join(tmp, f"{spec.name}.setup")
    with open(path, "wb") as file:
        file.write(spec.setup)
    return path
