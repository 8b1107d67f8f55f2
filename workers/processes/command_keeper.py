"""The keeper of a command: it starts it, passes signals on, and lets nothing of it outlive `killable run`.

Runs in: keeper. A fork of `killable run`, single-threaded, a subreaper: every process that the command leaves becomes
its child. It stays in the session of its owner, so that the command has the terminal.
"""

from __future__ import annotations

import _socket
import errno
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Sequence

from killable.workers.named_tuples import NamedTuple
from killable.workers.processes import child_reaper
from killable.workers.processes.descendants import kill_below
from killable.workers.protocol import fd_passing, keeper_messages, zygote_messages
from killable.workers.protocol.zygote_messages import ProcessEnding
from killable.workers.runtime import process_setup

LOOK_AGAIN_S = 0.05
"""Interval of checks while the last processes die: SIGCHLD reports deaths, but nothing reports an adoption."""
_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
_STOPPING_OR_CONTINUING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT)


class CommandCgroup(NamedTuple):
    """The cgroup of the command: descriptors of two of its files, and the folders to remove if the owner cannot."""

    procs: int
    kill: int
    folders: Sequence[str]


class CommandStart(NamedTuple):
    """What to start, and how."""

    argv: Sequence[str]
    terminal: int
    """A descriptor of the terminal in whose foreground the command runs; -1: it has none, or is in the background."""
    cgroup: CommandCgroup | None
    files_max: int | None
    signal_mask: Sequence[int]
    """The signals that were blocked when `killable run` was started."""


def main(sock: _socket.socket, owner: int, start: CommandStart) -> None:
    """Serve until the command and everything below it are gone. `owner` is the pid of the process that forked this."""
    signal.set_wakeup_fd(-1)
    for number in _IGNORED:  # by a handler: the command gets the default, or what was ignored before
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    os.setpgid(0, 0)  # what the terminal sends to the owner's group is the owner's
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    process_setup.adopt_orphans()
    try:
        keeper = Keeper(sock, os.pidfd_open(owner), start.cgroup)
    except ProcessLookupError:
        return
    except OSError as error:  # no descriptor is left
        fd_passing.send(sock, zygote_messages.to_wire(keeper_messages.StartFailed(error.errno or 0, of_program=False)))
        return
    if os.getppid() == owner:  # else it died before pidfd_open, which may have opened another process
        keeper.serve(start)


def _do_nothing(_number: int, _frame: object) -> None: ...


class Keeper:
    """Has one command, and the orphans that it leaves."""

    def __init__(self, sock: _socket.socket, owner_pidfd: int, cgroup: CommandCgroup | None) -> None:
        self._sock = sock
        self._owner_pidfd = owner_pidfd
        self._command = 0
        """Its pid, which is its group's number; 0: there is none, or it has been reaped."""
        self._failed = -1
        """The end of a pipe in which the fork says why it has not become the command."""
        self._cgroup = cgroup
        self._has_ended = False
        self._is_killed = False
        self._swept = 0
        self._orphans = child_reaper.Orphans()
        self._wakeups, _ = child_reaper.watch_children()

    def serve(self, start: CommandStart) -> None:
        if not self._start(start):
            return
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._owner_pidfd, self._wakeups):
            poll.register(descriptor, select.POLLIN)
        is_owned = True
        while self._command:
            ready = dict(poll.poll(1000 * LOOK_AGAIN_S if self._has_ended or not is_owned else None))
            if self._wakeups in ready:
                child_reaper.drain_wakeups(self._wakeups)
            if is_owned and (self._owner_pidfd in ready or self._sock.fileno() in ready):
                is_owned = self._owner_pidfd not in ready and self._obey()
                if not is_owned:
                    poll.unregister(self._owner_pidfd)
                    poll.unregister(self._sock)
            if not is_owned:
                self._kill_all()
            self._look()
        if not is_owned and self._cgroup is not None:
            _remove(self._cgroup.folders)

    # ── the start ──

    def _start(self, start: CommandStart) -> bool:
        """Fork the command; return whether there is a fork. Nothing waits for its execve(2): a network file system may
        hold that up for as long as it likes.
        """
        keeper = os.getpid()
        # What is for the command waits until its fork has none of Python's handlers, which would take it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._failed, fails = os.pipe2(os.O_CLOEXEC)
            self._command = os.fork()
        except OSError as error:
            self._tell(keeper_messages.StartFailed(error.errno or 0, of_program=False))
            return False
        if self._command == 0:
            _become(start, keeper, fails)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(fails)
        if self._cgroup is not None:
            os.close(self._cgroup.procs)
        _leave_standard_streams()
        self._tell(keeper_messages.Started(self._command, time.monotonic()))
        return True

    # ── what the owner asks for ──

    def _obey(self) -> bool:
        """Do what a message asks for. Return False if the owner is gone."""
        received = fd_passing.receive(self._sock)
        if received is None:
            return False
        message = keeper_messages.from_wire(received[0])
        if isinstance(message, keeper_messages.KillAll):
            self._kill_all()
        elif isinstance(message, keeper_messages.Pass) and not self._has_ended:
            self._signal_group(message.signal)
            if message.signal not in _STOPPING_OR_CONTINUING:
                self._signal_group(signal.SIGCONT)
        return True

    def _signal_group(self, number: int) -> None:
        """Signal the command's group. The command is not reaped, so that no other group can have its number."""
        try:
            os.killpg(self._command, number)
        except OSError:
            pass  # it may be under another user, or have left its group: then it gets it alone
        else:
            return
        try:
            os.kill(self._command, number)
        except OSError:
            pass

    def _kill_cgroup(self) -> None:
        if self._cgroup is not None:
            try:
                os.write(self._cgroup.kill, b"1")  # all at once: a fork bomb outruns any other kill
            except OSError:
                pass  # it is removed: it was empty

    def _kill_all(self) -> None:
        self._is_killed = True
        self._kill_cgroup()
        try:
            os.kill(self._command, signal.SIGKILL)
        except OSError:
            pass  # under another user (a set-user-ID program): what is below it is killed as far as that is permitted
        self._signal_group(signal.SIGKILL)
        kill_below(self._command)
        child_reaper.end_tracer(self._command, was_killed=True)

    # ── what has happened ──

    def _look(self) -> None:
        """Tell what has become of the command. When it has ended, kill what it has left, and reap it at last."""
        if not self._has_ended:
            self._has_ended = child_reaper.is_zombie(self._command)
            if not self._has_ended:
                self._look_for_stop()
                if not self._is_killed:  # else what ends was killed: it is counted when the command has ended, too
                    self._reap_daemons()
                return
            if told := os.read(self._failed, 16):  # nobody can write there any more
                os.waitpid(self._command, 0)
                self._command = 0
                self._tell(keeper_messages.StartFailed(*struct.unpack("=i?", told)))
                return
            self._tell(keeper_messages.Ended())
            self._kill_cgroup()
        child_reaper.kill_group(self._command)
        self._orphans.kill((self._command,), self._note_orphan, closely=True)
        if self._orphans:
            return
        _, status, usage = os.wait4(self._command, 0)
        self._command = 0
        self._tell(keeper_messages.TreeGone(ProcessEnding.from_wait(status, usage, time.monotonic()), self._swept))

    def _look_for_stop(self) -> None:
        try:
            found = os.waitid(os.P_PID, self._command, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return  # it has just ended, which SIGCHLD reports
        if found is not None:
            self._tell(keeper_messages.Paused(found.si_status))

    def _reap_daemons(self) -> None:
        """Reap what has left its parents and ended, while the command runs: it would be a zombie until the end."""
        for pid in child_reaper.children():
            if pid != self._command and child_reaper.is_zombie(pid):
                os.waitpid(pid, 0)

    def _note_orphan(self, pid: int, ending: ProcessEnding, suspects: frozenset[int]) -> None:
        self._swept += 1

    def _tell(self, message: keeper_messages.Message) -> None:
        try:
            fd_passing.send(self._sock, zygote_messages.to_wire(message))
        except OSError:
            pass  # the owner is gone, which the next poll reports


def _leave_standard_streams() -> None:
    """Point stdin and stdout to /dev/null: a writer or reader there waits for the command, not for this process."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _remove(folders: Sequence[str]) -> None:
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            pass  # it has groups of the command's own below it: the next server's start removes it


def _become(start: CommandStart, keeper: int, fails: int) -> None:
    """Become the command, in the fork. Does not return."""
    of_program = False
    try:
        os.setpgid(0, 0)
        if start.terminal >= 0:
            os.tcsetpgrp(start.terminal, os.getpid())  # all signals are blocked: it would stop by SIGTTOU
        if start.cgroup is not None:
            process_setup.CgroupMove(start.cgroup.procs).make()  # else it is ended without
        process_setup.die_with(keeper)
        if start.files_max is not None:
            most = min(start.files_max, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for number in range(1, signal.NSIG):  # Python ignores two, which exec would keep; others have its handlers
            if number in (signal.SIGPIPE, signal.SIGXFSZ) or callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, start.signal_mask)
        of_program = True
        _exec(start.argv)
    except (OSError, ValueError) as error:  # ValueError: Python executes no program with an empty name
        code = errno.ENOENT if isinstance(error, ValueError) else error.errno or 0
        os.write(fails, struct.pack("=i?", code, of_program))
    finally:
        os._exit(127)


def _exec(argv: Sequence[str]) -> None:
    """Replace this process. A file without a format that the kernel knows is a script of sh(1), as execvp(3) has it."""
    environment = _environment()
    try:
        os.execvpe(argv[0], [*argv], environment)
    except OSError as error:
        import shutil  # here, with all that it imports: most commands are no such script

        path = shutil.which(argv[0])
        if error.errno != errno.ENOEXEC or path is None:
            raise
        os.execve("/bin/sh", ["sh", path, *argv[1:]], environment)


def _environment() -> dict[bytes, bytes]:
    """Return the environment that `killable run` was started with: Python sets LC_CTYPE in one without a locale."""
    environment = dict(os.environb)
    if b"LC_CTYPE" in environment:
        with open("/proc/self/environ", "rb") as file:
            if not any(each.startswith(b"LC_CTYPE=") for each in file.read().split(b"\0")):
                del environment[b"LC_CTYPE"]
    return environment
