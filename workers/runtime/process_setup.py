"""What a fresh child does to itself before anything of the user's runs in it.

Runs in: guard | zygote | worker, each right after its fork. Any failure ends the process: nothing half confined goes
on.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int) -> None:
    """Call prctl(2). Raise OSError."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({option}, {argument}): {os.strerror(errno)}")


def reset_signals() -> None:
    """Every disposition to its default and an empty mask: a host may have passed both on (signal(7), exec and fork).

    But SIGPIPE and SIGXFSZ stay ignored as in every Python program, whose sockets and files raise
    BrokenPipeError and OSError instead; `subprocess` gives its children the defaults again.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN if number in (signal.SIGPIPE, signal.SIGXFSZ) else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def outlast_requests() -> None:
    """SIGTERM, SIGINT and SIGHUP do nothing here: service managers and terminals send them to every process of a
    server, and the end of this one is its owner's to say. What is started here heeds them, for a preload may end its
    helpers so: exec takes handlers away (signal(7)), and so does `_Requests` in a fork.
    """
    _requests.hold_at_forks()
    for number in _REQUESTS:
        signal.signal(number, _do_nothing)


_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _do_nothing(_number: int, _frame: object) -> None: ...


class _Requests:
    """Held over a fork in a process that outlasts them: one that came to the child before it heeds them would be lost.

    Not in a worker, whose threads may fork at the same time.
    """

    def __init__(self) -> None:
        self._are_held = False
        self._mask: Iterable[int] | None = None
        """To go back to."""

    def hold_at_forks(self) -> None:
        if not self._are_held:
            self._are_held = True
            os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._heed)

    def _hold(self) -> None:
        outlasts = signal.getsignal(signal.SIGTERM) is _do_nothing
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS) if outlasts else None

    def _release(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _heed(self) -> None:
        for number in _REQUESTS:
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, signal.SIG_DFL)
        self._release()


_requests = _Requests()


def adopt_orphans() -> None:
    """Become a subreaper: orphans below this process become its children, not init's."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Be SIGKILLed when the parent ends; raise ProcessLookupError when it already has.

    PDEATHSIG is cleared by fork and by setuid, so each child sets its own; a parent that died before
    the call sends nothing, hence the second look.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent {parent} is gone")


def forbid_new_privileges() -> None:
    """No set-user-ID program can raise this tree above what may be signalled (PR_SET_NO_NEW_PRIVS)."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def join_cgroup(procs: int) -> int:
    """Move this process into the group of a cgroup.procs descriptor and close it; return 0 or the errno."""
    try:
        os.write(procs, b"0")
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(procs)
    return 0


def take_standard_streams(output: int | None) -> None:
    """Stdin from /dev/null; stdout and stderr into `output` (unchanged when None)."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)


def close_descriptors_except(kept: Iterable[int]) -> None:
    """Close everything above stderr but `kept` (close_range(2) through os.closerange)."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def set_process_limits(nice: int, *, core_dumps: bool = False) -> None:
    """Umask 022, nice level, and core dumps as who started us may have them, or none: RLIMIT_CORE 1 also stops those
    that go through a pipe (core(5)).
    """
    os.umask(0o022)
    if nice:
        os.nice(nice)
        _lower_session(nice)
    if not core_dumps:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        least = 1 if hard == resource.RLIM_INFINITY else min(1, hard)  # whoever has none may not have one
        resource.setrlimit(resource.RLIMIT_CORE, (least, least))


def _lower_session(nice: int) -> None:
    """Where sessions share the processors like equals (autogroup, sched(7)) a nice level counts inside of one only.

    The level of a session is another number, and each worker has a session of its own. Of those who are not root the
    kernel lets one on the whole machine set it in a tenth of a second: the others go on without, for no start may wait.
    """
    try:
        with open("/proc/self/autogroup", "wb", buffering=0) as file:
            file.write(str(nice).encode())
    except OSError:
        pass  # a kernel without it


def become_user(uid: int, gid: int, groups: Iterable[int], parent: int) -> None:
    """Give up root for good; call it last. Raise OSError.

    Not before the output pipe is the user's too: /dev/stdout opens it anew. The kernel forgets PDEATHSIG and makes the
    process undumpable (credentials(7), prctl(2)), which would give its own /proc/self to root.
    """
    os.fchown(1, uid, gid)
    os.setgroups(list(groups))
    os.setgid(gid)
    os.setuid(uid)
    prctl(PR_SET_DUMPABLE, 1)
    die_with(parent)


def flush_c_streams() -> None:
    """Write out what C code has printed: its stdout is buffered on a pipe, and _exit(2) does not write it."""
    _libc.fflush(None)


def reseed() -> None:
    """Give forked workers different random numbers; `random` itself reseeds after a fork already."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def worker(parent: int, *, output: int, nice: int, affinity: Iterable[int], core_dumps: bool) -> None:
    """Confine a forked worker. Raise OSError."""
    os.setsid()
    reset_signals()
    adopt_orphans()
    die_with(parent)
    forbid_new_privileges()
    take_standard_streams(output)
    set_process_limits(nice, core_dumps=core_dumps)
    if affinity:
        os.sched_setaffinity(0, affinity)
