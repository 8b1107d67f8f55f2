"""Memory and processor time of the processes of a worker's tree, from /proc (proc(5)).

Runs in: supervisor. Behind `ports`. Pids are only used to read: one that was reused in the meantime costs a wrong
sample, never a signal. The caller checks its pidfd afterwards.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from killable.supervisor.clock import process_cpu_s
from killable.workers.named_tuples import NamedTuple

_PAGE = resource.getpagesize()
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_READ_BYTES = 64 << 10
PIDS_MAX = 1 << 22
"""As many as a machine can have (pid_max, proc_sys_kernel(5))."""
_PID_BYTES = 8
"""Of one in a list of the kernel, at most."""
_SHARED_FROM = 4 << 20
"""Pages that a process shares, mostly with files, from which on their kinds are looked at."""
SHARED_MEMORY_FOLDER = "/dev/shm"
_SHARED_MAPPING = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ ...s [0-9a-f]+ (?P<device>[0-9a-f:]+) \d+ *(?P<path>.*)\n"
    rb"(?:\w+: .*\n)*?Pss: +(?P<share>\d+)",
    re.MULTILINE,
)
"""A mapping with MAP_SHARED in smaps (proc(5))."""


class Memory(NamedTuple):
    """The resident memory of one process that no file backs, in bytes."""

    private: int
    """A page that two processes share after a fork counts in both."""
    shared: int
    """What is shared on purpose (RssShmem): shared anonymous memory, POSIX and System V segments, files on tmpfs."""
    is_alive: bool = True
    """False: a zombie."""
    resident: int = 0
    """All pages, with those of files."""


def members(pid: int, grouped: Iterable[int], at_most: int) -> list[int]:
    """Return the pids of a worker's tree, itself first, zombies included, but no more than `at_most`.

    `grouped` are the processes of its cgroup, which one read finds. The tree is walked too, for processes that have
    moved out of the cgroup and for zombies, which a cgroup does not list.
    """
    found = dict.fromkeys((pid, *grouped))
    if at_most <= 1:
        return [pid]
    walked = [pid]
    for parent in walked:
        for child in children(parent, at_most):
            if len(found) >= at_most:
                return list(found)[:at_most]
            if child not in found:
                found[child] = None
                walked.append(child)
    return list(found)[:at_most]


def newest_pid() -> int:
    """Return the number that was given last to a process or thread, of this pid namespace or one below it; 0: it is not
    known. As long as it stays the same, none has been started (the last field of loadavg, proc(5)).
    """
    return int(read("/proc/loadavg").rpartition(b" ")[2] or 0) if _has_own_loadavg() else 0


@cache
def _has_own_loadavg() -> bool:
    """Return whether the kernel answers: lxcfs(1) mounts a file there that it writes every few seconds."""
    try:
        return os.stat("/proc/loadavg").st_dev == os.stat("/proc").st_dev
    except OSError:
        return False


def children(pid: int, at_most: int = PIDS_MAX) -> Iterator[int]:
    """Yield the children of every thread of a process. The kernel may leave out some while others end.

    `at_most`: the caller takes no more of each thread's; the rest is not read.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        yield from read_pids(f"/proc/{pid}/task/{thread}/children", at_most)


def memory(pid: int) -> Memory | None:
    """Return the memory of a process. None: it is gone, or no descriptor is left.

    Two files are read, 3 µs and 10 µs on an idle machine: the first shows a zombie, and whether the second is needed.
    """
    statm = read(f"/proc/{pid}/statm")
    if not statm:
        return None
    size, resident, shared, *_ = map(int, statm.split())
    if size == 0:
        thread = _other_thread(pid)
        return memory(thread) if thread else Memory(0, 0, is_alive=False)
    private = (resident - shared) * _PAGE
    if shared * _PAGE < _SHARED_FROM:
        return Memory(private, 0, resident=resident * _PAGE)
    _, _, rest = read(f"/proc/{pid}/status").partition(b"RssShmem:")
    return Memory(private, int(rest.split(maxsplit=1)[0]) << 10 if rest else 0, resident=resident * _PAGE)


def threads(pid: int) -> int:
    """Return the number of threads of a process; 0: it is gone.

    The kernel counts them as links of the folder (proc_task_getattr); 2 are of the folder itself. No file is opened.
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def _other_thread(pid: int) -> int:
    """Return a thread of a process that has its memory, other than the main one, which may have ended; 0: it has none.

    /proc has a folder for each thread by its number, too, which no list shows (proc(5)).
    """
    if threads(pid) < 2:
        return 0
    try:
        others = [int(each) for each in os.listdir(f"/proc/{pid}/task") if each != f"{pid}"]
    except OSError:
        return 0
    return next((each for each in others if read(f"/proc/{each}/statm")[:2] not in (b"", b"0 ")), 0)


def exact_bytes(pid: int, shared_at_most: int) -> tuple[int, int]:
    """Return the private memory that only this process has, and that plus its share of memory shared by forks.

    No files count. Of a process that does not show its pages both are what it has beyond `shared_at_most`: that much
    it may share with what has forked it.
    """
    rows = _rollup(pid)
    if not rows:
        private = max(0, _private_bytes(pid) - shared_at_most)
        return private, private
    alone = min(rows[b"Private_Dirty"], rows[b"Anonymous"])  # dirty pages may belong to a file
    return alone, rows.get(b"Pss_Anon", 0)


def alone_bytes(pid: int) -> int:
    """Return the pages that only this process has, those of files included: what its end would free."""
    rows = _rollup(pid)
    names = b"Private_Clean", b"Private_Dirty", b"Private_Hugetlb"
    return sum(rows.get(name, 0) for name in names) if rows else _private_bytes(pid)


def _private_bytes(pid: int) -> int:
    used = memory(pid)
    return 0 if used is None else used.private


def _rollup(pid: int) -> dict[bytes, int]:
    """Return the rows of smaps_rollup in bytes, for which the kernel walks all pages of the process.

    Nothing: it is gone, a zombie, or another user's, or lets nobody look into it (PR_SET_DUMPABLE, prctl(2)).
    """
    _, *lines = _of_memory(pid, "smaps_rollup").splitlines() or [b""]
    rows = (line.partition(b":")[::2] for line in lines)
    return {name: int(rest.split()[0]) << 10 for name, rest in rows}


def _of_memory(pid: int, name: str) -> bytes:
    """Read a file about the memory of a process: by its main thread, or where that has ended by another one. One that
    ends meanwhile has nothing in its file.
    """
    found = _whole(f"/proc/{pid}/{name}")
    if not found and (thread := _other_thread(pid)):
        found = _whole(f"/proc/{thread}/{name}")
    return found


def _whole(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def exact_shared_bytes(pid: int) -> int:
    """Return its share of the memory that it has mapped to share it, without what this supervisor has given it.

    Inputs, results and tokens are in memory files named killable-...: they are no memory that the job took.
    """
    mappings = _of_memory(pid, "smaps")
    devices = {b"00:01", _device(SHARED_MEMORY_FOLDER)}  # the kernel's own tmpfs, and that of shm_open(3)
    found = (each for each in _SHARED_MAPPING.finditer(mappings) if each["device"] in devices)
    return sum(int(each["share"]) << 10 for each in found if not each["path"].startswith(b"/memfd:killable-"))


def _device(path: str) -> bytes:
    """Return the device of a file system as smaps spells it."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return b""
    return f"{os.major(device):02x}:{os.minor(device):02x}".encode()


def cpu_s(pids: Sequence[int], in_group_s: float | None) -> float:
    """Return the processor seconds of a tree (`pids`, the worker first) and of the children that it has waited for.

    The time of its cgroup, `in_group_s`, also counts children that were never waited for, but no worker that moved out.
    """
    counted = pids if in_group_s is None else pids[:1]
    return max(in_group_s or 0.0, sum((process_cpu_s(pid) or 0.0) + _waited_s(pid) for pid in counted))


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) from the third, the state, on; none if the process is gone."""
    return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def is_stopped(pid: int) -> bool | None:
    """Return whether a process is stopped by a signal (state T or t of proc_pid_stat(5)). None: it is gone, or no
    descriptor is left.
    """
    fields = stat_fields(pid)
    return fields[0] in (b"T", b"t") if fields else None


def _waited_s(pid: int) -> float:
    return sum(map(int, stat_fields(pid)[13:15])) / _TICKS_PER_S  # cutime, cstime


def own_use() -> tuple[float, int]:
    """Return the processor seconds of this process, and the bytes that it has in memory."""
    pid = os.getpid()
    found = memory(pid)
    return process_cpu_s(pid) or 0.0, 0 if found is None else found.resident


def read_pids(path: str, at_most: int) -> list[int]:
    """Return the pids that a file of the kernel lists, but not many more than `at_most`; none if it is gone."""
    return list(map(int, read(path, at_most * _PID_BYTES).split()))


def read(path: str, at_most: int = 1) -> bytes:
    """Return a file of /proc or of a cgroup, but not many more bytes than `at_most`; nothing if it or its process is
    gone, or no descriptor is left.

    One read(2) returns all of a file that is one record, as most are. Of a list it returns as many whole pids as fit
    into a page (seq_read_iter in the kernel): the last one is that which is far from full.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = part = os.read(descriptor, _READ_BYTES)
        while len(part) > _PAGE // 2 and len(found) < at_most:
            part = os.read(descriptor, _READ_BYTES)
            found += part
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return found
