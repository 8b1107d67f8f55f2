"""The setup of a fresh child process, before any user code runs in it.

Runs in: guard | zygote | worker, each right after its fork. Any failure ends the process, so none runs half confined.
"""

from __future__ import annotations

# `signal` makes an enum of each number that it returns: 0.6 ms for all of them, in each process of a start.
import _signal  # type: ignore[import-not-found]
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38

ZYGOTE_OOM_SCORE, WORKER_OOM_SCORE = 200, 500
"""The kernel's out-of-memory killer takes workers first, then a zygote, last a guard and the program that owns it."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int) -> None:
    """Call prctl(2). Raise OSError."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({option}, {argument}): {os.strerror(errno)}")


class _Title:
    """The memory that /proc/PID/cmdline shows: the arguments of the exec, at the same place in each fork."""

    def __init__(self) -> None:
        self._memory: memoryview | None = None
        """None before `find`, or where /proc does not tell: then no title is set."""

    def find(self) -> None:
        """Find it, after an exec. Forks inherit it."""
        try:
            with open("/proc/self/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b") ")[2].split()
            start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 (proc(5))
        except (OSError, IndexError, ValueError):
            return
        if 0 < start < end:
            self._memory = memoryview((ctypes.c_char * (end - start)).from_address(start)).cast("B")

    def set(self, *words: str) -> None:
        """Show these words as the command line. The last byte stays zero: else the environment would be shown, too."""
        if self._memory is not None:
            room = len(self._memory)
            self._memory[:] = "\0".join(words).encode(errors="replace")[: room - 1].ljust(room, b"\0")


title = _Title()


def set_name(name: str) -> None:
    """Name this thread as `top` and `ps -o comm` show it, with 15 characters at most (PR_SET_NAME, prctl(2))."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def reset_signals() -> None:
    """Set every signal to its default and empty the mask: both may be inherited (signal(7), exec and fork).

    SIGPIPE and SIGXFSZ stay ignored, as in every Python program: sockets and files raise BrokenPipeError and OSError
    instead. `subprocess` restores their defaults in its children.
    """
    signal.set_wakeup_fd(-1)
    for number in _signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            is_ignored = number in (signal.SIGPIPE, signal.SIGXFSZ)
            _signal.signal(number, _signal.SIG_IGN if is_ignored else _signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ignore_stop_signals() -> None:
    """Make SIGTERM, SIGINT and SIGHUP do nothing in this process.

    Service managers and terminals send them to every process of a server, but the owner decides when this one ends. Its
    children get the defaults, since a preload may end its helpers by a signal: exec resets handlers (signal(7)), and
    `_BlockedDuringFork` does so in a fork.
    """
    _requests.block_during_forks()
    for number in _STOP_SIGNALS:
        signal.signal(number, _do_nothing)


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _do_nothing(_number: int, _frame: object) -> None: ...


class _BlockedDuringFork:
    """Blocks `_STOP_SIGNALS` during a fork: the child would lose one that arrives before its defaults are restored.

    It does nothing in a worker, whose threads may fork at the same time.
    """

    def __init__(self) -> None:
        self._are_held = False
        self._mask: Iterable[int] | None = None
        """The signal mask to restore; None: nothing was blocked."""

    def block_during_forks(self) -> None:
        if not self._are_held:
            self._are_held = True
            os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._restore_defaults)

    def _hold(self) -> None:
        outlasts = signal.getsignal(signal.SIGTERM) is _do_nothing
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS) if outlasts else None

    def _release(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _restore_defaults(self) -> None:
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, signal.SIG_DFL)
        self._release()


_requests = _BlockedDuringFork()


def adopt_orphans() -> None:
    """Become a subreaper: orphans below this process become its children instead of init's."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def is_subreaper() -> bool:
    """Return whether this process is a subreaper: the attribute outlives an exec. Raise OSError."""
    found = ctypes.c_int()
    if _libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({PR_GET_CHILD_SUBREAPER}): {os.strerror(errno)}")
    return bool(found.value)


def die_with(parent: int) -> None:
    """Have the kernel SIGKILL this process when its parent ends. Raise ProcessLookupError if it has ended.

    fork and setuid clear PDEATHSIG, so each child sets its own. A parent that died before the call sends nothing, so
    the parent is checked afterwards.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent {parent} is gone")


def die_before_owner(oom_score: int) -> None:
    """Raise this process's out-of-memory score (proc(5), oom_score_adj); one that is higher already stays."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < oom_score:
                file.write(str(oom_score).encode())
    except OSError:
        pass  # it only decides who dies first


def forbid_new_privileges() -> None:
    """Keep set-user-ID programs below from gaining privileges: they could not be signalled (PR_SET_NO_NEW_PRIVS)."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


class CgroupMove:
    """The move of this process into its cgroup. It is made once."""

    def __init__(self, procs: int | None, errno: int = 0) -> None:
        """`procs`: a descriptor of cgroup.procs; None: it was made, or there is no cgroup. `errno`: its result."""
        self._procs = procs
        self._errno = errno

    def make(self) -> int:
        """Make it, if that was not done. Return 0, or the errno if it has failed."""
        procs, self._procs = self._procs, None
        if procs is not None:
            try:
                os.write(procs, b"0")
            except OSError as error:
                self._errno = error.errno or -1
            finally:
                os.close(procs)
        return self._errno


def take_standard_streams(output: tuple[int, int] | None) -> None:
    """Redirect stdin from /dev/null, and stdout and stderr to `output`, which are closed (None: leave them)."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if output is not None:
        for number, descriptor in enumerate(output, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def close_descriptors_except(kept: Iterable[int]) -> None:
    """Close every descriptor above stderr except `kept` (close_range(2) through os.closerange)."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def set_process_limits(nice: int, *, core_dumps: bool = False) -> None:
    """Set umask 022 and the nice level. `core_dumps` keeps the inherited limit; else core dumps are disabled, also
    those through a pipe, by RLIMIT_CORE 1 (core(5)).
    """
    os.umask(0o022)
    if nice:
        os.nice(nice)
        _lower_session(nice)
    if not core_dumps:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        least = 1 if hard == resource.RLIM_INFINITY else min(1, hard)  # a hard limit of 0 cannot be raised to 1
        resource.setrlimit(resource.RLIMIT_CORE, (least, least))


def _lower_session(nice: int) -> None:
    """Set the nice level of this process's session, for kernels with autogroup (sched(7)).

    There sessions share the CPU equally, each worker has its own session, and a process's nice level counts only inside
    it. For users other than root the kernel allows one such write per tenth of a second on the whole machine; a worker
    whose write fails goes on without it, so that no start waits.
    """
    try:
        with open("/proc/self/autogroup", "wb", buffering=0) as file:
            file.write(str(nice).encode())
    except OSError:
        pass  # a kernel without autogroup, or a write too many


def become_user(uid: int, gid: int, groups: Iterable[int], parent: int) -> None:
    """Give up root for good. Call it last. Raise OSError.

    The output pipes are given to the user first, because opening /dev/stdout opens it again. The kernel clears
    PDEATHSIG and makes the process undumpable (credentials(7), prctl(2)), which gives its /proc/self to root; both are
    set again.
    """
    os.fchown(1, uid, gid)
    os.fchown(2, uid, gid)
    os.setgroups(list(groups))
    os.setgid(gid)
    os.setuid(uid)
    prctl(PR_SET_DUMPABLE, 1)
    die_with(parent)


def flush_c_streams() -> None:
    """Flush the C streams: on a pipe C buffers stdout, and _exit(2) does not flush it."""
    _libc.fflush(None)


def reseed() -> None:
    """Seed numpy.random, so that forked workers draw different numbers. `random` reseeds itself after a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def worker(parent: int, *, output: tuple[int, int], nice: int, affinity: Iterable[int], core_dumps: bool) -> None:
    """Set up a forked worker: session, signals, limits and streams. Raise OSError."""
    os.setsid()
    reset_signals()
    adopt_orphans()
    die_with(parent)
    die_before_owner(WORKER_OOM_SCORE)
    forbid_new_privileges()
    take_standard_streams(output)
    set_process_limits(nice, core_dumps=core_dumps)
    if affinity:
        os.sched_setaffinity(0, affinity)
