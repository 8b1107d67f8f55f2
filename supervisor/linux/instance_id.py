"""Which run of which process something belongs to, told by its name alone: a cgroup, a cookie, a temporary folder.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"killable-([0-9a-f]{32})-(\d+)-(\d+)-(\d+)")
_FOLDER = re.compile(r"killable-([0-9a-f]{12})-([0-9a-f]+)-([0-9a-f]+)-[a-z0-9_]{8}")


class InstanceId(NamedTuple):
    """One run of one process: no other one, before or after, is equal to it."""

    boot: str
    namespace: int
    """Of pids (its inode): containers share cgroup directories and folders, and count their pids each."""
    pid: int
    started: int
    """In clock ticks since boot (proc(5), stat, field 22): a wall-clock time moves with the clock."""

    @classmethod
    def of(cls, pid: int) -> InstanceId | None:
        """Return the process that has this pid now; None when there is none, or only its remains (a zombie). Raise
        OSError when that cannot be told.
        """
        started = _start_ticks(pid)
        return None if started is None else cls(*_here(), pid, started)

    @classmethod
    def named(cls, name: str) -> InstanceId | None:
        """Return the owner that `name` names, if it is such a name and nothing more."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(found[1], *(int(number) for number in found.groups()[1:]))

    @property
    def name(self) -> str:
        return f"killable-{self.boot}-{self.namespace}-{self.pid}-{self.started}"

    @property
    def folder_prefix(self) -> str:
        """What `tempfile.mkdtemp` begins the name of its folder with.

        Short, because of the 108 bytes of a Unix socket's path (unix(7)): a job makes such sockets below it.
        """
        return f"killable-{_digest(self.boot, self.namespace)}-{self.pid:x}-{self.started:x}-"

    def is_gone(self) -> bool:
        """Tell whether it is known to live no more. Of another boot or pid namespace nothing can be told."""
        try:
            if (self.boot, self.namespace) != _here() or not sees_own_pids():
                return False
            return _start_ticks(self.pid) != self.started and not _is_hidden(self.pid)
        except OSError:
            return False  # /proc cannot be read: no descriptor is left


def boot_id() -> str:
    """Return what names this run of this machine's kernel: another one on it, or on another machine, has another name.

    Raise OSError.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def owner_of_folder(name: str) -> InstanceId | None:
    """Return whose folder has this name, if it has exactly our scheme and comes from this boot and pid namespace."""
    found = _FOLDER.fullmatch(name)
    if found is None or found[1] != _digest(*_here()):
        return None
    return InstanceId(*_here(), int(found[2], 16), int(found[3], 16))


def sees_own_pids() -> bool:
    """Tell whether /proc numbers processes as this one does (pid_namespaces(7)): the numbers of another pid namespace
    would be strangers.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) == 2  # from the namespace of /proc down to our own: they are one
    return True


def _is_hidden(pid: int) -> bool:
    """Tell whether there is such a process and /proc does not show it (proc(5), hidepid)."""
    if os.path.exists(f"/proc/{pid}"):
        return False
    try:
        os.close(os.pidfd_open(pid))
    except ProcessLookupError:
        return False
    return True


def _here() -> tuple[str, int]:
    return boot_id(), os.stat("/proc/self/ns/pid").st_ino


def _digest(boot: str, namespace: int) -> str:
    return hashlib.blake2s(f"{boot}-{namespace}".encode(), digest_size=6).hexdigest()


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    # One whose main thread alone has ended shows as a zombie, too: it has more than one thread, and lives.
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else int(fields[19])
