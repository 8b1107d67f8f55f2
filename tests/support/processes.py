"""Processes as /proc shows them. Shares no code with the code under test."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import struct
import termios
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from support import cgroup_v2
from support.waiting import Pending

MARK = "TESTS_OF_KILLABLE"
"""Environment variable of everything that this process of the test run starts: whatever loses its parent is still known
by it."""

os.environ[MARK] = uuid.uuid4().hex  # and not the one that a process of pytest-xdist has got from its parent

shared_servers: set[int] = set()
"""Servers of several tests: what is below them is no test's own. Whoever shares one looks after that."""
permanent_pids: set[int] = set()
"""What stands beside the tests until the run is over. What is below it is the test's that has started it."""

_strangers: frozenset[int] = frozenset()
"""Those of the last look that no test has started: such a process stays a stranger, and need not be read again. Its
number is forgotten with it: only one that dies, and whose number goes once around within a test, would be mistaken.
"""


class ProcessInfo(NamedTuple):
    """A process at the moment of the look."""

    pid: int
    name: str
    """The kernel's short name (comm), which a fork inherits."""
    state: str
    """R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie."""
    parent: int
    session: int
    started: int
    """In clock ticks since boot: with the pid it names one process."""


def read_process(pid: int) -> ProcessInfo | None:
    """Return a process, a zombie included, or None when there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = stat.rpartition(b")")
    fields = after.split(None, 20)
    name = before.partition(b"(")[2].decode(errors="replace")
    return ProcessInfo(pid, name, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def all_pids() -> set[int]:
    """Return the numbers of all processes of the machine."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def read_processes(pids: Iterable[int]) -> list[ProcessInfo]:
    """Return those of them that are there."""
    return [seen for seen in map(read_process, pids) if seen is not None]


def all_processes() -> list[ProcessInfo]:
    """Return all processes of the machine."""
    return read_processes(all_pids())


def named(name: str) -> list[ProcessInfo]:
    """Return all processes of that short name that tests have started."""
    ours = all_pids() - _strangers
    return [seen for seen in read_processes(pid for pid in ours if _name(pid) == name) if seen.name == name]


def _name(pid: int) -> str | None:
    """Read the name alone, which takes a third of the time."""
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return file.read().removesuffix(b"\n").decode(errors="replace")
    except OSError:
        return None


def descendants(pid: int) -> list[ProcessInfo]:
    """Return everything below a process that tests have started, but what stands beside them."""
    return _below(pid, read_processes(all_pids() - _strangers))


def _below(pid: int, processes: Iterable[ProcessInfo]) -> list[ProcessInfo]:
    children: dict[int, list[ProcessInfo]] = {}
    for seen in processes:
        children.setdefault(seen.parent, []).append(seen)
    found: list[ProcessInfo] = []
    below = list(children.get(pid, ()))
    while below:
        seen = below.pop()
        found.append(seen)
        below += children.get(seen.pid, ())
    return [seen for seen in found if seen.pid not in permanent_pids]


def marked(name: str, value: str) -> list[ProcessInfo]:
    """Return all processes that were exec'd with this variable in their environment, and the forks of those."""
    wanted = f"{name}={value}".encode()
    return [seen for seen in all_processes() if wanted in _environment(seen.pid)]


def _environment(pid: int) -> list[bytes]:
    """Return the variables that a process was exec'd with; none of one that is gone, a zombie, or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return [each for each in file.readall().split(b"\0") if each]
    except OSError:
        return []


def started_by_tests(*, afresh: bool = False) -> list[ProcessInfo]:
    """Return everything that this test run has started and that is still there, orphans and zombies included.

    Not what is below a shared server, nor what stands beside the tests. `afresh`: reads the strangers again, too.
    """
    global _strangers
    here, mark = os.getpid(), f"{MARK}={os.environ[MARK]}".encode()
    there = all_pids()
    strangers = set() if afresh else {pid for pid in _strangers if pid in there}
    seen = read_processes(there - strangers)
    found = {each.pid: each for each in _below(here, seen)}
    for each in seen:
        if each.pid in found or each.pid == here:
            continue
        if each.started < _started(here):  # what is older is not ours
            strangers.add(each.pid)
        elif mark in (variables := _environment(each.pid)):
            found[each.pid] = each
        elif variables:  # not between two programs, with nothing to read
            strangers.add(each.pid)
    for server in shared_servers:
        for each in _below(server, seen):
            found.pop(each.pid, None)
    _strangers = frozenset(strangers)
    return [each for each in found.values() if each.pid not in permanent_pids]


@functools.cache
def _started(pid: int) -> int:
    seen = read_process(pid)
    assert seen is not None
    return seen.started


def cgroups_of(pid: int) -> list[Path]:
    """Return the cgroup2 directories that a supervisor in this process has made below its own group."""
    made = re.compile(f"killable-.*-{pid}-")
    try:
        group = cgroup_v2.own_group()
        return sorted(group / name for name in os.listdir(group) if made.match(name))
    except OSError:
        return []


def stat_field(pid: int, name: str) -> str:
    """Return one field of /proc/PID/status (proc(5)), such as `SigBlk` or `NoNewPrivs`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise KeyError(name)


def main_thread_cpu_s(pid: int) -> float:
    """Return the processor seconds of a process's main thread (schedstat, nanoseconds)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a whole process (proc(5), stat: clock ticks)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    ticks = stat[stat.rindex(")") + 2 :].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def computes(
    pid: int, for_s: float = 0.02, measure: Callable[[int], float] = main_thread_cpu_s
) -> Callable[[], bool | Pending]:
    """Return a condition: the main thread, or what is measured, has computed so long from now on: there it will stay.

    That a job has begun, or has said something, does not tell that it is inside the call that comes next.
    """
    before = measure(pid)
    return lambda: measure(pid) - before >= for_s or Pending(read_process(pid))


def is_in_state(pid: int, state: str) -> Callable[[], bool | Pending]:
    """Return a condition: the main thread is sleeping (`S`), or the process is stopped (`T`)."""

    def is_so() -> bool | Pending:
        seen = read_process(pid)
        return (seen is not None and seen.state == state) or Pending(seen)

    return is_so


def has_ended(pid: int) -> Callable[[], bool | Pending]:
    """Return a condition: the process is a zombie, or none any more."""

    def is_so() -> bool | Pending:
        seen = read_process(pid)
        return seen is None or seen.state == "Z" or Pending(seen)

    return is_so


def unread_bytes(writer: int, reader: int) -> int:
    """Return what lies in the pipes between two processes, but for what the first has printed."""
    output = os.readlink(f"/proc/{writer}/fd/1")
    theirs = {target for _, target in _open_files(writer) if target.startswith("pipe:")} - {output}
    unread = 0
    for path, target in _open_files(reader):
        if target in theirs:
            end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # the same pipe once more: nothing is taken from it
            unread += struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, b"\0" * 4))[0]
            os.close(end)
    return unread


def _open_files(pid: int) -> Iterator[tuple[str, str]]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(FileNotFoundError):  # closed since
            yield path, os.readlink(path)


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found
