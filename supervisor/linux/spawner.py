"""A pool's processes, seen from above: start a zygote, ask for forks, and start again when a zygote is lost.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import asyncio
import os

from killable.supervisor.linux import host_forks
from killable.supervisor.linux.cgroup import CgroupRoot
from killable.supervisor.linux.oom_counter import OomCounter
from killable.supervisor.linux.user_accounts import account
from killable.supervisor.linux.worker_pipes import open_pipes
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.linux.zygote_host import Lineage
from killable.supervisor.ports import ProcessListener, SpawnerListener, ZygoteLost
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol import control

THREAD_LIMITS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Set before any preload, unless the pool or the environment says otherwise: a zygote with threads cannot fork.

onnxruntime starts a thread when it is imported, to send reports on its use to its maker.
"""


class PoolSpawner:
    """Implements `seam.Spawner`: the lineage in which workers are forked, and those in which something does not go."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spec: PoolSpec,
        listener: SpawnerListener,
        *,
        cgroups: CgroupRoot | None,
        tmp: str,
        cookie: str,
        patience_s: float,
        answer_s: float,
        oom: OomCounter,
    ) -> None:
        self._loop = loop
        self._spec = spec
        self._listener = listener
        self._cgroups = cgroups
        self._tmp = tmp
        self._oom = oom
        self._cookie = cookie
        self._patience_s = patience_s
        self._answer_s = answer_s
        self._lineage: Lineage | None = None
        self._stuck: list[Lineage] = []
        self._lineages = 0
        self._closing = False
        self.proof = "descendants" if cgroups is None else "cgroup+descendants"

    @property
    def zygote_pid(self) -> int | None:
        return None if self._lineage is None else self._lineage.zygote_pid

    def start(self, start_method: str) -> None:
        os.makedirs(self._tmp, 0o700, exist_ok=True)  # what tidies /tmp up may have taken it
        configure = self._configure(start_method)
        with host_forks.putting_off:
            if self._lineage is None:
                self._lineage = self._open_lineage()
            self._lineage.start_zygote(configure)

    def _configure(self, start_method: str) -> control.Configure:
        spec = self._spec
        become = account(spec.user, spec.group)
        if become is not None:
            os.chmod(self._tmp, 0o711)  # each worker has a folder of its own in it
        return control.Configure(
            pool=spec.name,
            modules=list(spec.modules),
            folder=spec.folder,
            start_method=start_method,
            codec=spec.codec,
            jobs_per_worker_max=spec.jobs_per_worker_max,
            nice=spec.nice,
            tmp=self._tmp,
            affinity=list(spec.affinity),
            core_dumps=spec.core_dumps,
            uid=None if become is None else become.uid,
            gid=None if become is None else become.gid,
            groups=[] if become is None else become.groups,
            account_env={} if become is None else {**become.environment, **spec.env},
            setup=self._write_setup(),
        )

    def _write_setup(self) -> str:
        """A message to a zygote is bounded; what its user gives it need not be."""
        if not self._spec.setup:
            return ""
        path = os.path.join(self._tmp, f"{self._spec.name}.setup")
        with open(path, "wb") as file:
            file.write(self._spec.setup)
        return path

    def _open_lineage(self) -> Lineage:
        self._lineages += 1
        return Lineage(
            self._loop,
            self,
            self._listener,
            python=self._spec.python,
            folder=self._spec.folder,
            environment={**THREAD_LIMITS, **os.environ, **self._spec.env},
            cookie=f"{self._cookie}/{self._lineages}",
            patience_s=self._patience_s,
            answer_s=self._answer_s,
        )

    def stop_zygote(self) -> None:
        if self._lineage is not None:
            self._lineage.stop_zygote()

    def fork(self, worker_id: str, listener: ProcessListener) -> WorkerProcess:
        with host_forks.putting_off:
            return self._fork(worker_id, listener)

    def _fork(self, worker_id: str, listener: ProcessListener) -> WorkerProcess:
        lineage = self._lineage
        if lineage is None:
            raise ZygoteLost
        cgroup = None if self._cgroups is None else self._cgroups.create(worker_id)
        try:
            pipes = open_pipes()
        except OSError:
            if cgroup is not None:
                cgroup.remove()
            raise
        sent = list(pipes.theirs)
        closing = sent[:-1]  # the last is the stack's memory file: both sides keep it
        tmp = os.path.join(self._tmp, worker_id)
        process = None
        try:
            process = WorkerProcess(self._loop, listener, pipes.ours, cgroup, tmp, self._oom, lineage.note_exit)
            if cgroup is not None:
                sent.append(cgroup.open_procs())
                closing.append(sent[-1])
            lineage.fork(control.Fork(worker_id, cgroup=cgroup is not None), sent)
        except (OSError, ZygoteLost):
            if process is not None:
                process.abandon()
            raise
        finally:
            for descriptor in closing:
                os.close(descriptor)
        lineage.add(worker_id, process)
        return process

    def leave_to_parent(self) -> None:
        """In a fork of this process: nothing here is its own."""
        for lineage in (*self._stuck, self._lineage):
            if lineage is not None:
                lineage.leave_to_parent()

    async def close(self) -> None:
        self._closing = True
        lineages = [*self._stuck, *([] if self._lineage is None else [self._lineage])]
        async with asyncio.TaskGroup() as closing:
            for lineage in lineages:
                closing.create_task(lineage.close())

    # ── LineageOwner ──

    def on_zygote_lost(self, lineage: Lineage, how: str) -> None:
        self._listener.on_zygote_lost(how)

    def on_stuck(self, lineage: Lineage) -> None:
        assert self._lineage is lineage, "it gives up once"
        self._lineage = None
        self._stuck.append(lineage)
        self._listener.on_zygote_lost()

    def on_ended(self, lineage: Lineage) -> None:
        if self._lineage is lineage:
            self._lineage = None
        elif lineage in self._stuck:
            self._stuck.remove(lineage)
