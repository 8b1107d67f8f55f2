"""A pool's guard and zygote, seen from above: start them, ask for forks, hear what became of them.

Runs in: supervisor. Part of the seam. The host process is left alone: the guard is started by `subprocess` (never a
fork of the host), and no signal handler, subreaper or waitpid(-1) is set up here.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import killable
import killable.workers
from killable.supervisor.machine import leftovers
from killable.supervisor.machine.accounts import account
from killable.supervisor.machine.cgroup import CgroupRoot
from killable.supervisor.machine.memory import OomCounter
from killable.supervisor.machine.process import WorkerProcess, open_pipes
from killable.supervisor.seam import ProcessListener, SpawnerListener, ZygoteLost
from killable.supervisor.settings import PoolSpec
from killable.workers import control, fdpass
from killable.workers.control import Ending

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

_LOOK_AGAIN_S = 0.001
GUARD_EXIT_S = 10.0
"""How long the guard may take to kill everything below it before it is killed itself."""


def package_folders() -> dict[str, str]:
    """Return where our packages lie, for interpreters in which they are not installed."""
    return {
        "killable": str(Path(killable.__file__).parent),
        "killable.workers": str(Path(killable.workers.__file__).parent),
    }


class PoolSpawner:
    """Implements `seam.Spawner`: one guard, at most one zygote, and the processes that the zygote forked."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spec: PoolSpec,
        listener: SpawnerListener,
        *,
        cgroups: CgroupRoot | None,
        tmp: str,
        instance_id: str,
        oom: OomCounter,
    ) -> None:
        self._loop = loop
        self._spec = spec
        self._listener = listener
        self._cgroups = cgroups
        self._tmp = tmp
        self._oom = oom
        self._cookie = f"{instance_id}/{spec.name}"
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_pidfd = -1
        self._guard_socket: socket.socket | None = None
        self._zygote_socket: socket.socket | None = None
        self._processes: dict[str, WorkerProcess] = {}
        self._orphans: dict[int, Ending] = {}
        self._guard_gone = asyncio.Event()
        self._guard_gone.set()  # there is none yet
        self._closing = False
        self.zygote_pid: int | None = None
        self.proof = "descendants" if cgroups is None else "cgroup+descendants"

    def start(self, start_method: str) -> None:
        if self._guard is None:
            self._start_guard()
        assert self._guard_socket is not None
        spec = self._spec
        become = account(spec.user, spec.group)
        if become is not None:
            os.chmod(self._tmp, 0o711)  # each worker has a folder of its own in it
        configure = control.Configure(
            pool=spec.name,
            modules=list(spec.modules),
            folder=spec.folder,
            start_method=start_method,
            codec=spec.codec,
            jobs_per_worker_max=spec.jobs_per_worker_max,
            nice=spec.nice,
            tmp=self._tmp,
            affinity=list(spec.affinity),
            uid=None if become is None else become.uid,
            gid=None if become is None else become.gid,
            groups=[] if become is None else become.groups,
            account_env={} if become is None else {**become.environment, **spec.env},
        )
        ours, theirs = fdpass.open_pair()
        ours.setblocking(False)
        with theirs:
            try:
                # The start comes last: with any of these failed there is no zygote.
                fdpass.send(ours, control.to_wire(configure))
                self._loop.add_reader(ours, self._on_zygote_message)
                fdpass.send(self._guard_socket, control.to_wire(control.StartZygote()), [theirs.fileno()])
            except OSError:
                self._loop.remove_reader(ours)
                ours.close()
                raise
        self._zygote_socket = ours

    def stop_zygote(self) -> None:
        self._forget_zygote_socket()

    def fork(self, worker_id: str, listener: ProcessListener) -> WorkerProcess:
        if self._zygote_socket is None:
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
        process = None
        try:
            tmp = os.path.join(self._tmp, worker_id)
            process = WorkerProcess(self._loop, listener, pipes.ours, cgroup, tmp, self._oom)
            if cgroup is not None:
                sent.append(cgroup.open_procs())
                closing.append(sent[-1])
            order = control.Fork(worker_id, cgroup=cgroup is not None)
            fdpass.send(self._zygote_socket, control.to_wire(order), sent)
        except OSError as error:
            if process is not None:
                process.abandon()
            if isinstance(error, (BrokenPipeError, ConnectionResetError)):
                # It does not listen any more: if it lives it is to leave, so that its end is told in any case.
                self._zygote_socket.shutdown(socket.SHUT_WR)
                raise ZygoteLost from error
            raise
        finally:
            for descriptor in closing:
                os.close(descriptor)
        self._processes[worker_id] = process
        return process

    async def close(self) -> None:
        self._closing = True
        unkillable = list(self._processes.values())  # those that are still there when the guard is gone
        self._forget_zygote_socket()
        self._forget_guard_socket()  # end-of-file: the guard kills everything below it, then exits
        try:
            async with asyncio.timeout(GUARD_EXIT_S):
                await self._guard_gone.wait()
        except TimeoutError:
            if self._guard is not None:
                self._guard.kill()
            await self._guard_gone.wait()
        for process in unkillable:
            process.abandon()  # it keeps nothing of ours open; harmless when it is gone

    # ── the guard ──

    def _start_guard(self) -> None:
        ours, theirs = fdpass.open_pair()
        ours.setblocking(False)
        with theirs:
            try:
                guard = self._exec_guard(theirs.fileno())
            except OSError:
                ours.close()
                raise
        pidfd = -1
        try:
            pidfd = os.pidfd_open(guard.pid)
            self._loop.add_reader(ours, self._on_guard_message)
            self._loop.add_reader(pidfd, self._on_guard_exit)
        except OSError:
            self._loop.remove_reader(ours)
            ours.close()
            if pidfd >= 0:
                os.close(pidfd)
            guard.kill()  # it has started nothing yet
            guard.wait()
            raise
        self._guard, self._guard_pidfd, self._guard_socket = guard, pidfd, ours
        self._guard_gone.clear()

    def _exec_guard(self, socket_fd: int) -> subprocess.Popen[bytes]:
        packages = package_folders()
        arguments = {"packages": packages, "socket_fd": socket_fd, "owner": os.getpid()}
        boot = str(Path(packages["killable.workers"]) / "boot.py")
        python = self._spec.python or sys.executable
        environment = {**THREAD_LIMITS, **os.environ, **self._spec.env, leftovers.COOKIE: self._cookie}
        return subprocess.Popen(
            [python, "-S", "-P", boot, "guard", json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__ if sys.__stderr__ is not None else subprocess.DEVNULL,
            pass_fds=[socket_fd],
            cwd=self._spec.folder or None,
            env=environment,
            start_new_session=True,
        )

    def _on_guard_message(self) -> None:
        self._receive(self._guard_socket, self._forget_guard_socket, self._take_guard_message)

    def _take_guard_message(self, message: control.Message, descriptors: list[int]) -> None:
        match message:
            case control.ZygoteStarted(pid):
                self.zygote_pid = pid
                for descriptor in descriptors:
                    os.close(descriptor)
            case control.OrphanReaped(pid, ending):
                self._orphans[pid] = ending
            case control.ZygoteGone(ending):
                self._read_zygote_to_the_end()
                self._lose_zygote(ending)
            case _:
                raise AssertionError(message)

    def _on_guard_exit(self) -> None:
        """The guard is gone: at a close, or because someone killed it; then PDEATHSIG and the cgroups end what was
        below it.
        """
        assert self._guard is not None
        self._loop.remove_reader(self._guard_pidfd)
        os.close(self._guard_pidfd)
        self._guard.wait()
        self._guard = None
        self._forget_guard_socket()
        self._read_zygote_to_the_end()
        for process in self._processes.values():
            process.kill()
            process.doubt_descendants()
        self._sweep_without_guard(self._loop.time() + GUARD_EXIT_S)

    def _sweep_without_guard(self, give_up_at: float) -> None:
        """Kill what carries our cookie until nothing does: without the guard no one else is its subreaper."""
        try:
            left = leftovers.kill_by_cookie(self._cookie) > 0
        except OSError:
            left = True  # not all could be looked at
        left = left or not all(process.look_for_exit() for process in self._processes.values())
        if left and self._loop.time() < give_up_at:
            self._loop.call_later(_LOOK_AGAIN_S, self._sweep_without_guard, give_up_at)
            return
        self._guard_gone.set()  # before the pool hears of it and starts another
        self._lose_zygote(None)

    # ── the zygote ──

    def _on_zygote_message(self) -> bool:
        return self._receive(self._zygote_socket, self._forget_zygote_socket, self._take_zygote_message)

    def _take_zygote_message(self, message: control.Message, descriptors: list[int]) -> None:
        match message:
            case control.TypeReported(reported):
                self._listener.on_type(reported)
            case control.Preloaded(threads):
                self._listener.on_preloaded(threads)
            case control.PreloadFailed(traceback, declaration):
                self._listener.on_preload_failed(traceback, declaration)
            case control.Forked(worker_id, pid) if descriptors:
                self._processes[worker_id].forked(pid, descriptors[0])
            case control.Forked(worker_id):
                # No descriptor was left here for its pidfd: it retires when its orders are closed.
                self._processes.pop(worker_id).fork_failed(errno.EMFILE, os.strerror(errno.EMFILE))
            case control.ForkFailed(worker_id, number, why):
                self._processes.pop(worker_id).fork_failed(number, why)
            case control.Exited(worker_id, ending, swept):
                if worker_id in self._processes:
                    self._processes.pop(worker_id).swept(ending, swept)
            case _:
                raise AssertionError(message)

    def _read_zygote_to_the_end(self) -> None:
        """What a dead zygote had still said: exits that are known must not become unknown."""
        while self._on_zygote_message():
            pass
        self._forget_zygote_socket()

    def _lose_zygote(self, ending: Ending | None) -> None:
        """Everything that the zygote had started is gone; its workers' true statuses came through the guard, if at
        all.
        """
        self.zygote_pid = None
        orphans, self._orphans = self._orphans, {}
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.look_for_exit()  # all, before the end of one frees a slot: its next job must not get a dead worker
        for process in processes.values():
            known = orphans.get(process.pid) if process.pid is not None else None
            process.swept(known, len(orphans), zygote_lost=True)
        if not self._closing:
            self._listener.on_zygote_lost(ending)

    # ── sockets ──

    def _receive(
        self,
        sock: socket.socket | None,
        forget: Callable[[], None],
        take: Callable[[control.Message, list[int]], None],
    ) -> bool:
        """Take one message; return whether there was one. At end-of-file the socket is forgotten."""
        if sock is None:
            return False
        try:
            received = fdpass.receive(sock)
        except ConnectionResetError:
            received = None
        except OSError:
            return False  # nothing is there; or no memory to take it (ENOMEM), and it is there still
        if received is None:
            forget()
            return False
        wire, descriptors = received
        take(control.from_wire(wire), descriptors)
        return True

    def _forget_zygote_socket(self) -> None:
        if self._zygote_socket is not None:
            self._loop.remove_reader(self._zygote_socket)
            self._zygote_socket.close()
            self._zygote_socket = None

    def _forget_guard_socket(self) -> None:
        if self._guard_socket is not None:
            self._loop.remove_reader(self._guard_socket)
            self._guard_socket.close()
            self._guard_socket = None
