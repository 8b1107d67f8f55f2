"""A guard, the zygote that it forks, and the workers that the zygote forks.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from killable.supervisor import event_loops
from killable.supervisor.linux import orphan_cleanup, procfs
from killable.supervisor.linux.cgroup import Cgroup, CgroupRoot
from killable.supervisor.linux.early_guard import EarlyGuard, hasten_move
from killable.supervisor.linux.early_worker import EarlyWorker
from killable.supervisor.linux.guard_launch import start_guard
from killable.supervisor.linux.instance_id import MARKER
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.linux.zygote_orders import NewWorker
from killable.supervisor.linux.zygote_watchdog import REMIND_S, REMIND_S_MAX, STOPS_MAX, ZygoteWatchdog
from killable.supervisor.ports import SpawnerListener, ZygoteLost
from killable.workers.protocol import fd_passing, zygote_messages
from killable.workers.protocol.zygote_messages import ProcessEnding

ORPHAN_SEARCH_S = 1.0
"""How long a closing supervisor looks for orphans of a killed guard."""


class ZygoteHostListener(Protocol):
    """The spawner, as a zygote host sees it."""

    def on_zygote_lost(self, zygote_host: ZygoteHost, how: str) -> None:
        """The zygote and everything that it started are gone."""
        ...

    def on_stuck(self, zygote_host: ZygoteHost) -> None:
        """The zygote is lost, and a process below it cannot be killed: this host can start no other zygote."""
        ...

    def on_ended(self, zygote_host: ZygoteHost) -> None:
        """The guard is gone."""
        ...


class ZygoteHost:
    """One guard and everything below it. The constructor starts the guard, and may raise OSError."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: ZygoteHostListener,
        listener: SpawnerListener,
        *,
        python: str,
        folder: str,
        environment: Mapping[str, str],
        marker: str,
        patience_s: float,
        answer_s: float,
        early_guard: EarlyGuard | None = None,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._listener = listener
        self._marker = marker
        self._patience_s = patience_s
        self._guard_socket: socket.socket | None
        self._guard_pidfd = -1
        self._early_zygote: socket.socket | None = None
        """The socket of a zygote that the guard has been asked for, and that waits for its Configure."""
        started = None if early_guard is None else early_guard.take()
        early_pool = None if started is None else started.pool
        self._is_configured = early_pool is not None
        """Whether that zygote has its Configure already."""
        self._early_worker = EarlyWorker(None if early_pool is None else early_pool.worker)
        if started is None:
            self._guard, self._guard_socket = start_guard(python, folder, {**environment, MARKER: marker})
        else:
            self._guard, self._guard_socket, self._early_zygote, self._marker, _ = started
        self._zygote_socket: socket.socket | None = None
        self._zygote_pidfd = -1
        self._processes: dict[str, WorkerProcess] = {}
        self._leaving: list[WorkerProcess] = []  # reaped, while what they have left in memory is removed in a thread
        self._orphans: dict[int, ProcessEnding] = {}
        self._watchdog = ZygoteWatchdog(loop, answer_s, self._ask_zygote, self._end_zygote)
        self._settling: asyncio.TimerHandle | None = None
        self._reminder: asyncio.TimerHandle | None = None
        self._stops: dict[int | None, int] = {}  # how often in a row zygote and guard, by pid, were found stopped
        self._telling: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._stuck = False
        self._closing = False
        self.zygote_pid: int | None = None
        try:
            self._guard_pidfd = os.pidfd_open(self._guard.pid)
            loop.add_reader(self._guard_socket, self._on_guard_message)
            loop.add_reader(self._guard_pidfd, self._on_guard_exit)
        except OSError:
            self._forget_guard()
            self._forget_guard_socket()
            if self._early_zygote is not None:
                self._early_zygote.close()
            self._early_worker.let_go()
            self._guard.kill()  # it has started nothing yet, or a zygote that dies with it
            self._guard.wait()
            raise

    def has_early_pool(self) -> bool:
        """Begin to read what the early zygote says, if it has its Configure already. Return whether it has."""
        if not self._is_configured or self._early_zygote is None or self._guard_socket is None:
            return False
        self._watch_early_zygote(self._guard_socket)
        return True

    def take_early_worker(self, worker_id: str) -> NewWorker | None:
        """Hand the worker over that is ordered already, if it has this id; else it is not wanted."""
        return self._early_worker.take(worker_id, is_connected=self._zygote_socket is not None)

    def start_zygote(self, configure: zygote_messages.Configure) -> None:
        """Start a zygote. If the guard is gone too, `on_zygote_lost` follows in a moment. Raise OSError."""
        if self._guard_socket is None:
            return
        with suppress(OSError):  # the guard is gone, which is noticed below
            fd_passing.send(self._guard_socket, zygote_messages.to_wire(zygote_messages.UseFolder(configure.tmp)))
        if self._early_zygote is not None:
            self._watch_early_zygote(self._guard_socket, configure)
            return
        ours, theirs = fd_passing.open_pair()
        ours.setblocking(False)
        with theirs:
            try:
                # StartZygote is sent last: if any of these calls fails, there is no zygote.
                fd_passing.send(ours, zygote_messages.to_wire(configure))
                self._loop.add_reader(ours, self._on_zygote_message)
                fd_passing.send(
                    self._guard_socket, zygote_messages.to_wire(zygote_messages.StartZygote()), [theirs.fileno()]
                )
            except OSError as error:
                self._loop.remove_reader(ours)
                ours.close()
                if isinstance(error, (BrokenPipeError, ConnectionResetError)):
                    self._guard_socket.shutdown(socket.SHUT_WR)  # the guard exits now if not before: that is reported
                    return
                raise
        self._zygote_socket = ours

    def _watch_early_zygote(
        self, guard_socket: socket.socket, configure: zygote_messages.Configure | None = None
    ) -> None:
        """Read what the early zygote says, which gets its Configure now if it has none."""
        assert self._early_zygote is not None
        ours, self._early_zygote = self._early_zygote, None
        try:
            if configure is not None:
                fd_passing.send(ours, zygote_messages.to_wire(configure))
            self._loop.add_reader(ours, self._on_zygote_message)
        except OSError:  # the zygote has gone, or it goes with its socket: its guard leaves, which is reported
            ours.close()
            guard_socket.shutdown(socket.SHUT_WR)
        else:
            self._zygote_socket = ours

    def lease(self, until: float) -> None:
        """Have the guard end everything at this time, unless it hears of a later one."""
        if self._guard_socket is not None:
            with suppress(OSError):  # the guard is gone, or stopped: it ends everything then, or finds the lease over
                fd_passing.send(self._guard_socket, zygote_messages.to_wire(zygote_messages.Lease(until)))

    def hasten_move(self, root: CgroupRoot, cgroup: Cgroup, at_most_s: float) -> None:
        """Have the guard hasten the move of the next worker into this cgroup."""
        if self._guard_socket is not None:
            with suppress(OSError):  # the guard is gone: the move takes as long as it takes
                hasten_move(self._guard_socket, root, cgroup, at_most_s)

    def stop_zygote(self) -> None:
        self._forget_zygote_socket()

    def fork(self, order: zygote_messages.Fork, descriptors: list[int]) -> None:
        """Request a worker; the process registered with `add` receives the result. Raise ZygoteLost, OSError."""
        if self._zygote_socket is None:
            raise ZygoteLost
        try:
            fd_passing.send(self._zygote_socket, zygote_messages.to_wire(order), descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            # The zygote reads no more. If it lives, this makes it exit, so that its end is reported in any case.
            self._zygote_socket.shutdown(socket.SHUT_WR)
            raise ZygoteLost from error
        self._watchdog.expect()

    def add(self, worker_id: str, process: WorkerProcess) -> None:
        """Register a process, which hears of its fork and its exit."""
        self._processes[worker_id] = process
        fork = self._early_worker.take_fork()
        if fork is not None:
            self._loop.call_soon(self._tell_fork, worker_id, *fork)  # its worker does not know it yet
        else:
            self._watchdog.expect()

    def _tell_fork(self, worker_id: str, pid: int, pidfd: int) -> None:
        if worker_id in self._processes:
            self._processes[worker_id].forked(pid, pidfd)
        else:
            os.close(pidfd)

    def _sweep(
        self, process: WorkerProcess, ending: ProcessEnding | None, swept: int, orphans: Sequence[int] = (), *,
        zygote_lost: bool = False,
    ) -> None:  # fmt: skip
        """Tell a process that it is reaped, and wait for what it leaves at the close."""
        process.swept(ending, swept, orphans, zygote_lost=zygote_lost)
        self._leaving = [each for each in (*self._leaving, process) if not each.gone.is_set()]

    def note_ending(self) -> None:
        """Expect the zygote's report of how a process ended: it was killed, or its pidfd has shown the exit."""
        if self._zygote_socket is not None:
            self._watchdog.expect()
            if self._reminder is None:
                self._reminder = self._loop.call_later(REMIND_S, self._remind, REMIND_S)

    def _remind(self, waited_s: float) -> None:
        """Have the zygote look closer at a worker whose exit it has not reported, until it has."""
        self._reminder = None
        if not self._closing and any(p.is_ending for p in self._processes.values()):
            self._continue_stopped()
            self._ping()
            waited_s = min(2 * waited_s, REMIND_S_MAX)
            self._reminder = self._loop.call_later(waited_s, self._remind, waited_s)

    def _continue_stopped(self) -> None:
        """Continue zygote and guard if they were stopped (SIGSTOP), or if that cannot be known. One that always is
        stopped is killed: a job does that.
        """
        for pid, pidfd in ((self.zygote_pid, self._zygote_pidfd), (self._guard.pid, self._guard_pidfd)):
            is_stopped = False if pid is None or pidfd < 0 else procfs.is_stopped(pid)
            if is_stopped is False:
                self._stops.pop(pid, None)
                continue
            self._stops[pid] = self._stops.get(pid, 0) + bool(is_stopped)
            _signal(pidfd, signal.SIGCONT if self._stops[pid] < STOPS_MAX else signal.SIGKILL)

    def _see_guard_off(self, waited_s: float) -> None:
        """Continue a guard that was stopped, and has yet to see that it is to end, until it has ended."""
        if self._guard_pidfd >= 0:
            self._continue_stopped()
            waited_s = min(2 * waited_s, REMIND_S_MAX)
            self._loop.call_later(waited_s, self._see_guard_off, waited_s)

    async def close(self) -> None:
        """End the guard and everything below it; return when it is gone, or given up."""
        self._closing = True
        unkillable = list(self._processes.values())  # those that are still there when the guard is gone
        self._forget_zygote_socket()
        self._forget_guard_socket()  # end-of-file: the guard kills everything below it, then exits
        self._loop.call_later(REMIND_S, self._see_guard_off, REMIND_S)
        if not await event_loops.wait_within(self._ended, self._patience_s):
            self._guard.kill()
            if not await event_loops.wait_within(self._ended, self._patience_s + ORPHAN_SEARCH_S):
                self._forget_guard()  # not even the guard can be killed
        self._forget_zygote()
        self._early_worker.remove_cgroup()
        for process in self._leaving:
            await event_loops.wait_within(process.gone, self._patience_s)
        for process in (*unkillable, *self._leaving):
            process.abandon()  # closes its descriptors; harmless if it is gone

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        self._closing = True
        for sock in (self._guard_socket, self._zygote_socket):
            if sock is not None:
                sock.close()
        for descriptor in (self._guard_pidfd, self._zygote_pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._guard_socket = self._zygote_socket = None
        self._guard_pidfd = self._zygote_pidfd = -1
        self._early_worker.close_in_child()
        for process in self._processes.values():
            process.close_in_child()

    # ── the guard ──

    def _on_guard_message(self) -> None:
        self._receive(self._guard_socket, self._forget_guard_socket, self._take_guard_message)

    def _take_guard_message(self, message: zygote_messages.Message, descriptors: list[int]) -> None:
        match message:
            case zygote_messages.OrphanReaped(pid, ending):
                self._orphans[pid] = ending
            case zygote_messages.ZygoteGone(how):
                self._read_zygote_to_the_end()
                self._lose_zygote(how)
            case _:
                raise AssertionError(message)

    def _on_guard_exit(self) -> None:
        """Handle the exit of the guard, at a close or because it was killed. PDEATHSIG and the cgroups then end the
        processes below it.
        """
        self._forget_guard()
        self._reap_guard(REMIND_S)
        self._mark_lost()
        self._forget_guard_socket()
        self._read_zygote_to_the_end()
        self._forget_zygote()
        for process in self._processes.values():
            process.kill()
            process.drop_descendants_proof()
        # Without the guard the orphans have no subreaper here: they are found by environment marker and killed.
        patience_s = min(ORPHAN_SEARCH_S, self._patience_s) if self._closing else self._patience_s
        orphan_cleanup.sweep_marker_in_thread(
            self._marker,
            patience_s,
            lambda: event_loops.tell(self._loop, partial(self._end, threading.current_thread())),
        )

    def _reap_guard(self, wait_s: float) -> None:
        """Reap it without waiting: a process that traces it may keep it a zombie for as long as that lives."""
        if self._guard.poll() is None:
            self._loop.call_later(wait_s, self._reap_guard, min(2 * wait_s, REMIND_S_MAX))

    def _end(self, sweeping: threading.Thread) -> None:
        if sweeping is not threading.current_thread():
            sweeping.join()  # it is about to end: a close leaves no thread behind
        self._ended.set()
        self._owner.on_ended(self)  # before the pool is informed and starts another
        self._lose_zygote(f"with its guard: {_ending(self._guard.returncode)}")

    # ── the zygote ──

    def _on_zygote_message(self) -> bool:
        return self._receive(self._zygote_socket, self._forget_zygote_socket, self._take_zygote_message)

    def _take_zygote_message(self, message: zygote_messages.Message, descriptors: list[int]) -> None:
        match message:
            case zygote_messages.ZygoteStarted(pid):
                self.zygote_pid = pid
                for descriptor in descriptors[:1]:
                    self._zygote_pidfd = descriptor
                    try:
                        self._loop.add_reader(descriptor, self._on_zygote_exit)
                    except OSError:
                        pass  # the guard reports its end
            case zygote_messages.Imported(files):
                self._listener.on_files([zygote_messages.SourceFile(*file) for file in files])
            case zygote_messages.TypeReported(reported):
                self._listener.on_type(reported)
            case zygote_messages.Preloaded(threads):
                self._listener.on_preloaded(threads)
            case zygote_messages.PreloadFailed(traceback, declaration):
                self._listener.on_preload_failed(traceback, declaration)
            case zygote_messages.Forked(worker_id, pid) if worker_id not in self._processes:
                self._early_worker.note_fork(pid, descriptors)
            case zygote_messages.ForkFailed(worker_id) | zygote_messages.Exited(worker_id) if (
                worker_id not in self._processes
            ):
                self._early_worker.on_end(worker_id)
            case zygote_messages.Forked(worker_id, pid) if descriptors:
                self._processes[worker_id].forked(pid, descriptors[0])
            case zygote_messages.Forked(worker_id):
                # No descriptor was left here for its pidfd. The worker exits when its orders are closed.
                self._processes.pop(worker_id).fork_failed(errno.EMFILE, os.strerror(errno.EMFILE))
            case zygote_messages.ForkFailed(worker_id, number, why):
                self._processes.pop(worker_id).fork_failed(number, why)
            case zygote_messages.Exited(worker_id, ending, swept, orphans):
                self._sweep(self._processes.pop(worker_id), ending, swept, orphans)
                if not any(process.is_ending for process in self._processes.values()):
                    self._stops.clear()  # whoever was stopped was continued in time
            case zygote_messages.Pong():
                pass
            case _:
                raise AssertionError(message)
        if self._zygote_socket is not None:
            self._watchdog.heard(expects_more=any(process.awaits_report for process in self._processes.values()))

    def _ask_zygote(self) -> None:
        """Continue the zygote, in case it was stopped, and ping it: it answers even while it sweeps."""
        _signal(self._zygote_pidfd, signal.SIGCONT)
        self._ping()

    def _ping(self) -> None:
        if self._zygote_socket is not None:
            try:
                fd_passing.send(self._zygote_socket, zygote_messages.to_wire(zygote_messages.Ping()))
            except OSError:
                pass  # full, or gone: the watchdog goes on

    def _end_zygote(self) -> None:
        """Kill a zygote that answers nothing. The guard sweeps its orphans; its jobs end with it."""
        self._mark_lost()
        _signal(self._zygote_pidfd, signal.SIGKILL)
        self._limit_wait_for_guard()

    def _on_zygote_exit(self) -> None:
        self._loop.remove_reader(self._zygote_pidfd)
        self._mark_lost()
        self._limit_wait_for_guard()

    def _mark_lost(self) -> None:
        if not self._stuck and not self._closing:
            self._listener.on_zygote_ending()

    def _limit_wait_for_guard(self) -> None:
        """Limit the wait for the guard's ZygoteGone: a process below the zygote may be unkillable."""
        self._watchdog.stop()
        if self._settling is None and not self._closing and not self._stuck:
            self._settling = self._loop.call_later(self._patience_s / 2, self._on_half_patience)

    def _on_half_patience(self) -> None:
        """Release the workers with an empty cgroup after half of the patience: they need not wait for the others."""
        self._settling = self._loop.call_later(self._patience_s / 2, self._give_up)
        _signal(self._guard_pidfd, signal.SIGCONT)  # it may only have been stopped
        self._settle_proven()

    def _settle_proven(self) -> None:
        """Release the workers whose end the guard has reported and whose cgroup, now their only proof, is empty."""
        for worker_id, process in list(self._processes.items()):
            ending = None if process.pid is None else self._orphans.get(process.pid)
            if ending is not None and process.has_empty_group():
                process.drop_descendants_proof()
                self._sweep(self._processes.pop(worker_id), ending, 0, zygote_lost=True)

    def _give_up(self) -> None:
        """Leave unkillable processes to this guard. A held worker ends as unkillable, by the rules of its attempt."""
        self._settling = None
        self._stuck = True
        self._forget_zygote_socket()
        self._settle_proven()
        for worker_id, process in list(self._processes.items()):
            if not process.is_held:
                process.kill()
                self._processes.pop(worker_id).give_up()
        self._owner.on_stuck(self)

    def _read_zygote_to_the_end(self) -> None:
        """Read the last messages of a dead zygote: known exits must not become unknown."""
        while self._on_zygote_message():
            pass
        self._forget_zygote_socket()

    def _lose_zygote(self, how: str) -> None:
        """Report that everything below the zygote is gone. The guard has sent its workers' true statuses, if known."""
        self._forget_zygote()
        self._early_worker.remove_cgroup()
        orphans, self._orphans = self._orphans, {}
        processes, self._processes = self._processes, {}
        for process in processes.values():
            known = orphans.get(process.pid) if process.pid is not None else None
            self._sweep(process, known, len(orphans), [*orphans], zygote_lost=True)
        if self._stuck:
            self._forget_guard_socket()  # another host has taken over: this guard may exit
        elif self._leaving:
            self._telling = self._loop.create_task(self._tell_loss(how))
        else:
            self._on_loss(how)

    async def _tell_loss(self, how: str) -> None:
        """Tell of the loss when the last worker is told to be gone, as what it has left in memory is removed."""
        for process in self._leaving:
            await event_loops.wait_within(process.gone, self._patience_s)
        self._on_loss(how)

    def _on_loss(self, how: str) -> None:
        if not self._closing:
            self._owner.on_zygote_lost(self, how)

    # ── sockets ──

    def _receive(
        self,
        sock: socket.socket | None,
        forget: Callable[[], None],
        take: Callable[[zygote_messages.Message, list[int]], None],
    ) -> bool:
        """Process one message; return whether there was one. Forget the socket at end-of-file."""
        if sock is None:
            return False
        try:
            received = fd_passing.receive(sock)
        except ConnectionResetError:
            received = None
        except OSError:
            return False  # no message; or no memory to receive it (ENOMEM), and it is still in the socket
        if received is None:
            forget()
            return False
        wire, descriptors = received
        take(zygote_messages.from_wire(wire), descriptors)
        return True

    def _forget_guard(self) -> None:
        if self._guard_pidfd >= 0:
            self._loop.remove_reader(self._guard_pidfd)
            os.close(self._guard_pidfd)
            self._guard_pidfd = -1

    def _forget_zygote(self) -> None:
        self.zygote_pid = None
        self._watchdog.stop()
        for timer in (self._settling, self._reminder):
            if timer is not None:
                timer.cancel()
        self._settling = self._reminder = None
        if self._zygote_pidfd >= 0:
            self._loop.remove_reader(self._zygote_pidfd)
            os.close(self._zygote_pidfd)
            self._zygote_pidfd = -1

    def _forget_zygote_socket(self) -> None:
        self._watchdog.stop()
        self._early_worker.let_go()
        if self._zygote_socket is not None:
            self._loop.remove_reader(self._zygote_socket)
            self._zygote_socket.close()
            self._zygote_socket = None

    def _forget_guard_socket(self) -> None:
        if self._guard_socket is not None:
            self._loop.remove_reader(self._guard_socket)
            self._guard_socket.close()
            self._guard_socket = None


def _ending(exit_code: int | None) -> str:
    """Return how the guard ended, by what its Popen has reaped; None: a process that traces it holds it."""
    if exit_code is None:
        return "nobody could ask how it ended"
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _signal(pidfd: int, number: int) -> None:
    if pidfd >= 0:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except (ProcessLookupError, PermissionError):
            pass  # reaped, or not permitted
