"""The process of a command and its keeper, as `killable run` sees them.

Runs in: supervisor (`killable run`). Behind `ports`. This process is a subreaper, too: if the keeper is killed, what it
has kept becomes this one's, which then does the same.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from killable.supervisor.linux import cgroup, tree_usage
from killable.supervisor.linux.caught_signals import CaughtSignals
from killable.supervisor.linux.cgroup import Cgroup, CgroupRoot
from killable.supervisor.linux.oom_counter import own_limit_struck
from killable.supervisor.linux.poll_loop import PollLoop
from killable.supervisor.linux.tree_usage import LastLook
from killable.supervisor.ports import Gone, Sample
from killable.workers.processes import child_reaper, command_keeper
from killable.workers.processes.command_keeper import LOOK_AGAIN_S, CommandCgroup, CommandStart
from killable.workers.protocol import fd_passing, keeper_messages, zygote_messages
from killable.workers.protocol.zygote_messages import ProcessEnding
from killable.workers.runtime import process_setup

COMMAND = "command"
LOOK_AT_CGROUP_S = 0.002
"""Interval of looks at whether the cgroup is empty, once no process below the keeper is left."""


class CommandListener(Protocol):
    """Receives the events of one command."""

    def on_started(self, pid: int, at: float) -> None:
        """It was forked then (CLOCK_MONOTONIC seconds), and executes its program."""
        ...

    def on_not_started(self, errno: int, *, of_program: bool) -> None:
        """No process is left of it, also behind `on_started`. `of_program`: its program cannot be executed; else no
        process could be made. No other call follows.
        """
        ...

    def on_paused(self, number: int) -> None:
        """A signal has stopped it."""
        ...

    def on_ended(self) -> None:
        """It has ended. What it has left is being killed."""
        ...

    def on_gone(self, gone: Gone) -> None:
        """It is gone, and all that it has left. No other call follows."""
        ...


class CommandProcess:
    """Implements `ports.MeasuredProcess`."""

    def __init__(self, loop: PollLoop, listener: CommandListener) -> None:
        self._loop = loop
        self._listener = listener
        self._sock: socket.socket | None = None
        self._keeper = 0
        self._keeper_pidfd = -1
        self._known = child_reaper.children()
        """Children from before: a shell may have started them, and then have become this program (exec)."""
        self._orphans = child_reaper.Orphans()
        self._swept = 0
        self._ending: ProcessEnding | None = None
        self._cgroup: Cgroup | None = None
        self._cgroup_root: CgroupRoot | None = None
        self.pid: int | None = None
        self.cores = len(os.sched_getaffinity(0))
        """The processors that it may use."""
        self.base: Sample | None = None
        self._last_look = LastLook()

    def start(
        self, argv: Sequence[str], caught: CaughtSignals, *, terminal: int = -1, files_max: int | None = None
    ) -> None:
        """Fork the keeper, which starts the command. `terminal`: see `CommandStart`. Raise OSError."""
        self._make_cgroup()
        try:
            self._fork(argv, caught, terminal, files_max)
        except OSError:
            self._remove_cgroup()
            raise
        self.note_base()

    def _fork(self, argv: Sequence[str], caught: CaughtSignals, terminal: int, files_max: int | None) -> None:
        procs = -1 if self._cgroup is None else self._cgroup.open_procs()
        group = None
        if self._cgroup is not None and self._cgroup_root is not None:
            folders = (str(self._cgroup_root.path / COMMAND), str(self._cgroup_root.path))
            group = CommandCgroup(procs, self._cgroup.kill_descriptor, folders)
        start = CommandStart(argv, terminal, group, files_max, caught.mask)
        process_setup.adopt_orphans()
        self._sock, theirs = fd_passing.open_pair()
        owner = os.getpid()
        self._keeper = os.fork()
        if self._keeper == 0:
            try:
                caught.close_in_child()
                self._sock.close()
                command_keeper.main(theirs, owner, start)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        if procs >= 0:
            os.close(procs)
        self._keeper_pidfd = os.pidfd_open(self._keeper)
        self._loop.add_reader(self._sock.fileno(), self._on_message)

    def _make_cgroup(self) -> None:
        self._cgroup_root = cgroup.find_root(COMMAND)
        if self._cgroup_root is not None:
            try:
                self._cgroup = self._cgroup_root.create(COMMAND)
            except OSError:
                self._cgroup_root.remove()

    # ── signals ──

    def pass_on(self, number: int) -> None:
        """Send a signal to the command's process group, and let it run if it is stopped."""
        self._order(keeper_messages.Pass(number))

    def kill(self) -> None:
        """Send SIGKILL to the command and all below it."""
        self._order(keeper_messages.KillAll())

    def wake_keeper(self) -> None:
        """Let the keeper run, if somebody has stopped it."""
        if self._sock is not None:
            signal.pidfd_send_signal(self._keeper_pidfd, signal.SIGCONT)

    def _order(self, message: keeper_messages.Message) -> None:
        if self._sock is None:
            return
        try:
            self.wake_keeper()
            fd_passing.send(self._sock, zygote_messages.to_wire(message))
        except OSError:
            pass  # it is gone, which the loop reports

    # ── MeasuredProcess ──

    def note_base(self, *, cpu: bool = True) -> None:
        self.base = tree_usage.measure(self._keeper, self._cgroup, cpu=cpu, at_most=1)

    def bound(self, memory_bytes: int | None, tasks_max: int | None) -> None:
        if self._cgroup is not None:
            self._cgroup.bound(memory_bytes, tasks_max)

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        """Measure the keeper's tree, without the keeper: all that the command has left is below it."""
        sample = self._last_look.measure(self._keeper, self._cgroup, cpu=cpu, at_most=at_most + 1)
        if sample is None:
            return None
        return sample._replace(processes=max(1, sample.processes - 1), threads=max(1, sample.threads - 1))

    def has_started_none_since(self, sample: Sample) -> bool:
        return tree_usage.has_started_none_since(sample)

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None:
        told(tree_usage.measure_exactly(self._keeper, self._cgroup, sample))

    # ── what the keeper tells ──

    def _on_message(self) -> None:
        assert self._sock is not None
        try:
            received = fd_passing.receive(self._sock)
        except OSError:
            received = None
        if received is None:
            self._on_keeper_lost()
            return
        message = keeper_messages.from_wire(received[0])
        if isinstance(message, keeper_messages.Started):
            self.pid = message.pid
            self._listener.on_started(message.pid, message.at)
        elif isinstance(message, keeper_messages.StartFailed):
            self._close()
            self._remove_cgroup()
            self._listener.on_not_started(message.errno, of_program=message.of_program)
        elif isinstance(message, keeper_messages.Paused):
            self._listener.on_paused(message.signal)
        elif isinstance(message, keeper_messages.Ended):
            self._listener.on_ended()
        elif isinstance(message, keeper_messages.TreeGone):
            self._close()
            self._finish(message.ending, message.swept)

    def _close(self) -> None:
        assert self._sock is not None
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        os.waitpid(self._keeper, 0)
        os.close(self._keeper_pidfd)

    def _finish(self, ending: ProcessEnding | None, swept: int, *, keeper_lost: bool = False) -> None:
        """Report the end when the cgroup is empty, too."""
        group = self._cgroup
        if group is not None and not group.is_empty():
            group.kill()
            again = partial(self._finish, ending, swept, keeper_lost=keeper_lost)
            self._loop.call_at(self._loop.time() + LOOK_AT_CGROUP_S, again)
            return
        proof = "descendants" if group is None else "cgroup+descendants"
        struck = group is not None and own_limit_struck(b"", group.out_of_memory())
        self._remove_cgroup()
        self._listener.on_gone(Gone(ending, swept, proof, zygote_lost=keeper_lost, memory_max_struck=struck))

    def _remove_cgroup(self) -> None:
        if self._cgroup is not None:
            self._cgroup.remove()
        if self._cgroup_root is not None:
            self._cgroup_root.remove()

    # ── without a keeper ──

    def _on_keeper_lost(self) -> None:
        """Kill what it has kept, and wait until nothing is left. The command itself dies with it (PDEATHSIG)."""
        self._close()
        self._listener.on_ended()
        if self._cgroup is not None:
            self._cgroup.kill()
        self._sweep()

    def _sweep(self) -> None:
        self._orphans.kill(self._known, self._note_orphan, closely=True)
        if self._orphans:
            self._loop.call_at(self._loop.time() + LOOK_AGAIN_S, self._sweep)
        else:
            self._finish(self._ending, self._swept, keeper_lost=True)

    def _note_orphan(self, pid: int, ending: ProcessEnding, suspects: frozenset[int]) -> None:
        if pid == self.pid:
            self._ending = ending
        else:
            self._swept += 1
