"""The zygote of a pool: it imports the code, runs the preloads, forks workers, kills their orphans, and reaps them.

Runs in: zygote. Single-threaded: a fork copies only the calling thread, so a lock that another thread holds would stay
locked in every worker. With more than one thread after the preloads it refuses to fork, with an error.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import site
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from killable.workers.exit_codes import ExitCode
from killable.workers.processes import child_reaper
from killable.workers.processes.worker_start import WorkerStart, become_worker
from killable.workers.protocol import fd_passing, named_memory_log, zygote_messages
from killable.workers.protocol.zygote_messages import SourceFile
from killable.workers.runtime import copy_on_write, job_type_catalogue, named_memory_hooks, process_setup, warmup
from killable.workers.runtime.job_type_catalogue import SurveyFailed
from killable.workers.runtime.worker_loop import WorkerEnds

if TYPE_CHECKING:
    from killable.workers.runtime.sandbox import Sandbox

SHARE_AFTER_MS = 100
"""After the first fork, if nothing else happens. A first worker is ready before, and does not share its processor."""
_ORPHANS_TOLD_MAX = 500
"""Of one worker: their pids have to fit into a message."""


class _Child:
    __slots__ = ("is_told", "orphans", "swept", "worker_id")

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.is_told = False
        """Its end was reported although a tracer keeps it from being reaped."""
        self.swept = 0
        self.orphans: list[int] = []


def main(sock: _socket.socket, packages: dict[str, str]) -> int:
    """Serve until the supervisor closes the socket. In a forked child it runs the worker."""
    _send_pid(sock)
    site.main()  # the guard, which forked this process, runs without site-packages
    configure = _receive_configure(sock)
    if configure is None:
        return ExitCode.RETIRED
    process_setup.title.set(f"killable: zygote {configure.pool}")
    process_setup.set_name("killable-zygote")
    copy_on_write.freeze_own_modules()
    zygote = Zygote(sock, configure, packages)
    if not zygote.preload():
        _leave(ExitCode.NOT_IMPORTABLE)
    start = zygote.serve()
    if start is None:
        _leave(ExitCode.RETIRED)
    # This is a forked child, with the zygote's stack unwound and its objects gone: it is a worker now.
    del zygote
    return become_worker(start, configure, packages)


def _send_pid(sock: _socket.socket) -> None:
    """Send this process's pid and pidfd before any user code runs.

    They go through the same socket as later messages, so that the supervisor can signal this process once Preloaded
    arrives. The guard could report them too late, if it gets no CPU time after the fork.
    """
    pid = os.getpid()
    pidfd = os.pidfd_open(pid)
    _tell(sock, zygote_messages.ZygoteStarted(pid), [pidfd])
    os.close(pidfd)


def _tell(sock: _socket.socket, message: zygote_messages.Message, descriptors: Sequence[int] = ()) -> None:
    try:
        fd_passing.send(sock, zygote_messages.to_wire(message), descriptors)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the supervisor is gone: the next read reports it


def _receive_configure(sock: _socket.socket) -> zygote_messages.Configure | None:
    while (received := fd_passing.receive(sock)) is not None:
        message = zygote_messages.from_wire(received[0])
        if isinstance(message, zygote_messages.Configure):
            return message
        assert isinstance(message, zygote_messages.ImportAhead), message
        _import_ahead(message)
    return None


def _import_ahead(order: zygote_messages.ImportAhead) -> None:
    sys.path[:] = [*order.path, *(folder for folder in sys.path if folder not in order.path)]
    with suppress(Exception):  # it is imported again for the Configure, and its failure reported
        copy_on_write.import_modules(order.modules)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    process_setup.flush_c_streams()


def _leave(code: ExitCode) -> NoReturn:
    """Exit without waiting for threads that the user's imports may have started."""
    _flush()
    os._exit(code)


class Zygote:
    """Forks workers, and reaps them and the orphans that dead workers leave."""

    def __init__(self, sock: _socket.socket, configure: zygote_messages.Configure, packages: dict[str, str]) -> None:
        self._sock = sock
        self._configure = configure
        self._packages = packages
        self._children: dict[int, _Child] = {}
        self._orphans = child_reaper.Orphans()
        self._wakeups = self._wakeups_end = -1
        self._threads = 1
        self._shares_more = configure.codec == "pickle" and configure.start_method == "fork"
        self._has_forked = False
        self._sandbox: Sandbox | None = None

    def preload(self) -> bool:
        """Import the modules, run the preloads (start method fork) and report the job types. Return success."""
        log = os.path.join(self._configure.zygote_folder, named_memory_log.LOG_NAME)
        named_memory_hooks.names.install(log)
        try:
            if self._configure.start_method == "spawn":
                types, files = job_type_catalogue.survey_in_child(self._configure)
                self._tell_files(files)
            else:
                types = job_type_catalogue.load(self._configure, run_preloads=True)
                self._tell_imported()
                warmup.rehearsal(self._configure.codec)
                if self._configure.jobs_per_worker_max:  # workers that live for few jobs get them from here
                    copy_on_write.import_modules(copy_on_write.NEEDED_BY_JOBS)
            self._sandbox = self._prepared_sandbox()
        except BaseException as error:
            # The user's import may raise anything, even SystemExit: it becomes the pool's error, with its traceback.
            if isinstance(error, SurveyFailed):
                self._tell_files(error.files)
            else:
                self._tell_imported(error)
            _tell(self._sock, job_type_catalogue.explain(error))
            return False
        for reported in types:
            _tell(self._sock, zygote_messages.TypeReported(reported))
        self._threads = len(os.listdir("/proc/self/task"))
        # The user's imports may have changed signal handlers and the wakeup descriptor.
        process_setup.reset_signals()
        process_setup.ignore_stop_signals()
        self._wakeups, self._wakeups_end = child_reaper.watch_children()
        copy_on_write.freeze()
        _flush()
        _tell(self._sock, zygote_messages.Preloaded(self._threads))
        return True

    def _tell_imported(self, error: BaseException | None = None) -> None:
        if not self._configure.setup:  # an Executor's program is not loaded anew
            from killable.workers.runtime.imported_files import imported_files

            self._tell_files(imported_files(error))

    def _tell_files(self, files: Sequence[SourceFile]) -> None:
        from killable.workers.runtime.imported_files import messages

        for message in messages(files):
            _tell(self._sock, message)

    def _prepared_sandbox(self) -> Sandbox | None:
        if self._configure.sandbox is None:
            return None
        from killable.workers.runtime.sandbox import Sandbox

        return Sandbox(
            self._configure.sandbox, modules=self._configure.modules, folder=self._configure.folder,
            packages=self._packages,
        )  # fmt: skip

    def serve(self) -> WorkerStart | None:
        """Fork workers on request. Return None when the supervisor closes the socket; in a child, its WorkerStart."""
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._wakeups):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poll.poll(SHARE_AFTER_MS if self._shares_more and self._has_forked else None))
            if not ready:  # with no spare, the next fork is the one that replaces a killed worker: it does not wait
                self._share_more()
                continue
            if ready.get(self._sock.fileno(), 0) & select.POLLHUP:
                return None  # first: what the workers of a dead supervisor leave is looked after by the guard
            if self._wakeups in ready:
                child_reaper.drain_wakeups(self._wakeups)
                self._settle()
            if self._sock.fileno() in ready:
                received = fd_passing.receive(self._sock)
                if received is None:
                    return None  # the guard, the subreaper above, kills the processes that are left
                message, descriptors = received
                order = zygote_messages.from_wire(message)
                if isinstance(order, zygote_messages.Ping):
                    self._settle(asked=True)
                    _tell(self._sock, zygote_messages.Pong())
                    continue
                assert isinstance(order, zygote_messages.Fork), order
                start = self._fork(order, descriptors)
                if start is not None:
                    return start

    def _fork(self, order: zygote_messages.Fork, descriptors: list[int]) -> WorkerStart | None:
        parent = os.getpid()
        self._share_more()
        try:
            if self._threads > 1 and self._configure.start_method == "fork":
                raise OSError(0, f"a zygote with {self._threads} threads does not fork")
            pid = os.fork()
        except OSError as error:
            _tell(
                self._sock, zygote_messages.ForkFailed(order.worker_id, error.errno or 0, error.strerror or str(error))
            )
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        if pid == 0:
            return self._in_child(parent, descriptors, order)
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            pidfd = os.pidfd_open(pid)  # cannot open another process: the child has not been reaped
        except OSError as error:  # no descriptor is free: without a pidfd the supervisor could not end the worker
            _tell(
                self._sock, zygote_messages.ForkFailed(order.worker_id, error.errno or 0, error.strerror or str(error))
            )
            self._orphans.kill(self._children, self._note_orphan_process, closely=False)
            return None
        self._children[pid] = _Child(order.worker_id)
        _tell(self._sock, zygote_messages.Forked(order.worker_id, pid), [pidfd])
        os.close(pidfd)
        return None

    def _share_more(self) -> None:
        if self._shares_more and self._has_forked:
            self._shares_more = False
            copy_on_write.share_with_later_workers()
        self._has_forked = True

    def _in_child(self, parent: int, descriptors: list[int], order: zygote_messages.Fork) -> WorkerStart:
        orders, frames, stdout, stderr, notifications, line, stack, tokens, *procs = descriptors
        # Unset before the pipe is closed and its number reused. asyncio's at-fork handler may have done so already
        # (Python 3.12): the returned value does not name the pipe reliably.
        signal.set_wakeup_fd(-1)
        os.close(self._wakeups)
        os.close(self._wakeups_end)
        os.close(self._sock.detach())
        pipes = WorkerEnds(orders, line, frames, notifications, stack, tokens)
        tmp = os.path.join(self._configure.tmp, order.worker_id + self._configure.tmp_suffix)
        return WorkerStart(parent, pipes, (stdout, stderr), procs[0] if order.cgroup else None, tmp, self._sandbox)

    def _settle(self, *, asked: bool = False) -> None:
        """Kill orphans, then reap: a zombie leader's pid is reserved, so its process group can be killed safely.

        `asked`: the supervisor has seen an exit of which this process may have no SIGCHLD, as the worker is traced.
        """
        endings = {}
        for pid in self._children if asked else ():
            child_reaper.end_tracer(pid)
            endings[pid] = child_reaper.kept_ending(pid)
        dead = [pid for pid in self._children if endings.get(pid) is not None or child_reaper.is_zombie(pid)]
        if self._is_supervisor_gone():
            return  # the guard reaps them: whose memory is left is known by the pids
        for pid in dead:
            child_reaper.kill_group(pid)
        self._orphans.kill(self._children, self._note_orphan_process, closely=asked)
        for pid in dead:
            if self._orphans.may_be_of(pid):
                continue  # until a later SIGCHLD, or until asked again: a leader is reported after its last orphan
            child = self._children[pid]
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                del self._children[pid]
            ending = (
                zygote_messages.ProcessEnding.from_wait(status, usage, time.monotonic()) if done else endings.get(pid)
            )
            if not child.is_told and ending is not None:
                child.is_told = True
                _tell(self._sock, zygote_messages.Exited(child.worker_id, ending, child.swept, child.orphans))

    def _is_supervisor_gone(self) -> bool:
        """Return whether the socket's other end is closed. A supervisor that dies closes this one before those of its
        workers, of which they end: these have higher numbers.
        """
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def _note_orphan_process(self, pid: int, ending: zygote_messages.ProcessEnding, suspects: frozenset[int]) -> None:
        """Count an orphan for one dead worker. If two died at the same moment, either may have started it."""
        for child in (self._children[leader] for leader in suspects & self._children.keys()):
            if child.is_told:
                continue
            child.swept += 1
            if len(child.orphans) < _ORPHANS_TOLD_MAX:
                child.orphans.append(pid)
            break
