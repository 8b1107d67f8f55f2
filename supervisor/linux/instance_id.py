"""Identify one run of one process by a name, which its cgroups, environment markers and temporary folders carry.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import os
import re
from typing import Self

from killable.workers.named_tuples import NamedTuple

_NAME = r"killable-([0-9a-f]{32})-(\d+)-(\d+)-(\d+)"
_FOLDER = r"killable-([0-9a-f]{12})-([0-9a-f]+)-([0-9a-f]+)-[a-z0-9_]{8}"
"""Compiled when they are used: the first guard, which does not use them, waits for this module (`early_guard`)."""

MARKER = "KILLABLE_INSTANCE"
"""Set for the guard's exec. A fork keeps it, and an exec passes it on unless the job cleans its environment."""


class InstanceId(NamedTuple):
    """One run of one process: no earlier or later run is equal to it."""

    boot: str
    namespace: int
    """Inode of the pid namespace: containers share cgroup directories and folders, and each numbers its own pids."""
    pid: int
    started: int
    """Start in clock ticks since boot (proc(5), stat, field 22): a wall-clock time moves with the clock."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the id of the process that has this pid now; None if there is none, or only a zombie.

        Raise OSError if /proc cannot be read.
        """
        started = _start_ticks(pid)
        return None if started is None else cls(*_here(), pid, started)

    @classmethod
    def own(cls) -> Self:
        """Return the id of this process. Raise OSError if /proc cannot be read."""
        own = cls.of(os.getpid())
        assert own is not None
        return own

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Parse a `name`; return None if it is not exactly such a name."""
        found = re.fullmatch(_NAME, name)
        return None if found is None else cls(found[1], *(int(number) for number in found.groups()[1:]))

    @property
    def name(self) -> str:
        return f"killable-{self.boot}-{self.namespace}-{self.pid}-{self.started}"

    def marker(self, instance_id: str, pool: str) -> str:
        """Return the value of MARKER for the processes of a pool of this run's supervisor with that id."""
        return f"{self.name}/{instance_id}/{pool}"

    @property
    def folder_prefix(self) -> str:
        """Prefix of the temporary folder's name. Eight characters of [a-z0-9_] follow, as `tempfile` chooses them.

        It is short because of the 108 bytes of a Unix socket's path (unix(7)): jobs make such sockets below it.
        """
        return f"killable-{_digest(self.boot, self.namespace)}-{self.pid:x}-{self.started:x}-"

    def is_here(self) -> bool:
        """Return whether its processes would be seen here: the same boot and pid namespace. Raise OSError."""
        return (self.boot, self.namespace) == _here() and sees_own_pids()

    def is_gone(self) -> bool:
        """Return whether it is known to have ended. For another boot or pid namespace that is never known."""
        try:
            if not self.is_here():
                return False
            return _start_ticks(self.pid) != self.started and not _is_hidden(self.pid)
        except OSError:
            return False  # /proc cannot be read: no descriptor is left


def random_id() -> str:
    """Return 32 random hexadecimal digits. `uuid` would import `platform`, 3 ms."""
    return os.urandom(16).hex()


def host_name() -> str:
    return os.uname().nodename


def boot_id() -> str:
    """Return the id of this boot of this machine; every boot of every machine has another. Raise OSError."""
    return _read("/proc/sys/kernel/random/boot_id").strip().replace("-", "")


def owner_of_folder(name: str) -> InstanceId | None:
    """Return the owner of a temporary folder; None if the name has another form, or another boot or pid namespace."""
    found = re.fullmatch(_FOLDER, name)
    if found is None or found[1] != _digest(*_here()):
        return None
    return InstanceId(*_here(), int(found[2], 16), int(found[3], 16))


def sees_own_pids() -> bool:
    """Return whether /proc shows the pids of this process's own namespace (pid_namespaces(7)): those of another one
    would name foreign processes.
    """
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) == 2  # a pid for each namespace from that of /proc to our own: they are the same
    return True


def _is_hidden(pid: int) -> bool:
    """Return whether the process exists although /proc does not show it (proc(5), hidepid)."""
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
    """The first 48 bits of a boot id are random (RFC 9562), and a pid namespace has an inode of its own."""
    return f"{int(boot[:12], 16) ^ namespace:012x}"


def _start_ticks(pid: int) -> int | None:
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    # A process in which only the main thread has ended also shows as a zombie: it has other threads, and lives.
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else int(fields[19])


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
