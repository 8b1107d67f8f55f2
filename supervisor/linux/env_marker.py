"""Find the processes with the environment marker of a supervisor in /proc, and end them through pidfds.

Runs in: supervisor, and its sweeping thread. Behind `ports`.

A process that cleaned its environment is not found here: only its guard, as its subreaper, or its cgroup finds it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

from killable.supervisor import clock
from killable.supervisor.linux.instance_id import MARKER, InstanceId
from killable.supervisor.linux.procfs import stat_fields
from killable.workers.named_tuples import NamedTuple

GUARD_S = 2.0
"""How long the guard of a supervisor that has just died may take for its own sweep, which is more thorough."""
WAVE_S = 0.1
"""How long to wait for the end of one wave: there may be many more processes, which fork on meanwhile."""

BLIND_S = 0.25
"""How long processes are looked for that cannot be examined, as no descriptor is left: an end waits for it."""
_BLIND_LOOK_S = 0.01

_PF_FORKNOEXEC = 0x40
"""Flag in proc(5), stat, field 9: forked, and no exec since (linux/sched.h)."""
_PF_KTHREAD = 0x200000
_EXEC_LOOK_S, _EXEC_LOOKS_MAX = 0.001, 1000
"""Time between two looks at a process in an exec, and their number. The exec ends once it gets the processor."""


class OrphanProcess(NamedTuple):
    """A process that was found by its environment marker."""

    pid: int
    command: str
    marker: str


def kill_waves(is_meant: Callable[[str], bool], give_up_at: float) -> tuple[list[OrphanProcess], list[OrphanProcess]]:
    """Send SIGKILL to every process whose marker `is_meant` accepts, and to their new forks, until none is left.

    Return those that were killed, and those that are still there at `give_up_at` (clock.monotonic). Blocks, possibly
    past that time: reading the environment of a process that the kernel holds can take long. Raise OSError if the
    processes cannot be examined: no descriptor is left, or no memory.
    """
    swept: dict[int, OrphanProcess] = {}
    blind_at = min(give_up_at, clock.monotonic() + BLIND_S)
    while True:
        wave: list[OrphanProcess] = []
        failure = _kill_wave(is_meant, give_up_at, wave)
        swept.update((found.pid, found) for found in wave)
        if not wave:
            if failure is None:
                return list(swept.values()), []
            if clock.monotonic() >= blind_at:
                raise failure
            select.poll().poll(_BLIND_LOOK_S * 1000)
            continue
        if clock.monotonic() >= give_up_at:
            left = {found.pid for found in wave}
            return [found for pid, found in swept.items() if pid not in left], wave


def ownerless() -> Callable[[str], bool]:
    """Return a predicate: is the owner of a marker gone? Each owner is checked once."""
    known = {"": False, _marker_of("self"): False}  # its own marker: an orphan may have started this process

    def is_ownerless(marker: str) -> bool:
        if marker not in known:
            owner = InstanceId.named(marker.partition("/")[0])
            known[marker] = owner is not None and owner.is_gone()
        return known[marker]

    return is_ownerless


def let_guards_finish(is_meant: Callable[[str], bool]) -> bool:
    """Wait for the guards of supervisors that have just died: they also find processes that cleaned their environment.

    Stopped guards are continued. A guard that is still there after `GUARD_S` is killed with the rest. Return whether
    none was. Raise OSError if not all processes could be examined.
    """
    pidfds = []
    try:
        for pid in _marked_pids(is_meant):
            if not is_guard(pid):
                continue
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            pidfds.append(pidfd)
            try:
                if is_guard(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            except OSError:
                pass
        return _wait_for(pidfds, clock.monotonic() + GUARD_S)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _kill_wave(is_meant: Callable[[str], bool], give_up_at: float, found: list[OrphanProcess]) -> OSError | None:
    """Send SIGKILL once to every process whose marker `is_meant` accepts, and wait a moment for their ends.

    Return why not all processes could be examined; None: they could. The environment is read again after the pidfd is
    open: the pid may have been reused meanwhile.
    """
    pidfds = []
    try:
        for pid in _marked_pids(is_meant):
            command = _command(pid)
            try:
                pidfds.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
            marker = _marker_of(str(pid))
            try:
                if is_meant(marker):
                    signal.pidfd_send_signal(pidfds[-1], signal.SIGKILL)
                    found.append(OrphanProcess(pid, command, marker))
            except (ProcessLookupError, PermissionError):
                pass  # gone, or not permitted
    except OSError as error:  # no descriptor is left, or no memory
        return error
    finally:
        _wait_for(pidfds, min(give_up_at, clock.monotonic() + WAVE_S))
        for pidfd in pidfds:
            os.close(pidfd)
    return None


def _marked_pids(is_meant: Callable[[str], bool]) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and is_meant(_marker_of(name)):
            yield int(name)


def _marker_of(pid: str) -> str:
    """Return the marker of a process; empty if it has none. Raise OSError if it cannot be read."""
    was_empty = False
    for _ in range(_EXEC_LOOKS_MAX):
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                environment = b"\0" + file.readall()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return ""  # gone, or another user's
        if len(environment) > 1 or was_empty:
            break
        if _is_in_exec(int(pid)):
            _wait_for_end(int(pid), _EXEC_LOOK_S)
        else:
            was_empty = True  # if it is empty again: the exec may have ended between the two looks
    _, found, rest = environment.partition(f"\0{MARKER}=".encode())
    return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else ""


def _is_in_exec(pid: int) -> bool:
    """Return whether it has new memory to which no environment was written yet, so that it seems to have none.

    The start of the environment is then 0 (proc(5), stat, field 50), as it always is for the dead and kernel threads.
    """
    fields = stat_fields(pid)
    if not fields or fields[0] in (b"Z", b"X"):
        return False
    return not int(fields[6]) & _PF_KTHREAD and fields[47] == b"0"


def _command(pid: int) -> str:
    """Return its current name and its command line, for the log. A fork keeps the command line."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as comm, open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = b" ".join(cmdline.read(200).split(b"\0"))
            return f"{comm.read().strip().decode(errors='replace')}: {words.strip().decode(errors='replace')}"
    except OSError:
        return ""


def _wait_for_end(pid: int, at_most_s: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    _wait_for([pidfd], clock.monotonic() + at_most_s)
    os.close(pidfd)


def _wait_for(pidfds: list[int], give_up_at: float) -> bool:
    """Wait for the ends of processes; return whether all have ended."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = set(pidfds)
    while left and (left_s := give_up_at - clock.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            left.discard(pidfd)
    return not left


def is_guard(pid: int) -> bool:
    """Return whether it is a guard. A fork of a guard has the same command line, but never went through an exec."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read(4096).split(b"\0")
        flags = int(stat_fields(pid)[6])
    except (OSError, IndexError):
        return False
    if words[0].startswith(b"killable: guard"):
        return not flags & _PF_FORKNOEXEC
    # One that has just begun, or is of an older version.
    is_role = len(words) > 4 and words[3].endswith(b"boot.py") and words[4] == b"guard"
    return is_role and not flags & _PF_FORKNOEXEC
