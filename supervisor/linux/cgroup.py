"""A cgroup v2 directory per worker: kill a tree with one write, see that it is empty (cgroups(7), cgroup-v2.rst).

Runs in: supervisor. Behind `ports`. `cgroup.kill` and `cgroup.events` need no controller, only a writable cgroup2
directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from killable.supervisor.linux import procfs
from killable.supervisor.linux.instance_id import InstanceId
from killable.workers.named_tuples import NamedTuple

CONTROLLERS = frozenset({"memory", "pids"})
"""The controllers that limit a worker's group; each is used only where it is on cgroup v2."""


class CgroupRoot(NamedTuple):
    """The supervisor's own directory: `killable-<boot id>-<pid namespace>-<pid>-<start time>-<instance>`."""

    path: Path
    own: Path
    """The group that this process is in."""

    def create(self, worker_id: str) -> Cgroup:
        """Make the group of a worker. Raise OSError."""
        path = self.path / worker_id
        path.mkdir()
        opened: list[int] = []
        try:
            for name, mode in (("cgroup.kill", os.O_WRONLY), ("cgroup.events", os.O_RDONLY)):
                opened.append(os.open(path / name, mode | os.O_CLOEXEC))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            _remove(path)
            raise
        kill, events = opened
        return Cgroup(path, kill, events, self._enabled())

    def _enabled(self) -> frozenset[str]:
        """Return the controllers of workers' groups: those that this directory delegates."""
        return CONTROLLERS.intersection(procfs.read(f"{self.path}/cgroup.subtree_control").decode().split())

    def open_own_procs(self) -> int:
        """Return the descriptor of the cgroup.procs of this process's own cgroup; the caller closes it."""
        return os.open(self.own / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def remove(self) -> None:
        """Remove the directory if it is empty. The next start sweeps the group of a quarantined worker."""
        _remove(self.path)


class Cgroup:
    """The cgroup of one worker. Owns two descriptors: a kill, and the proof of an end, must not need new ones."""

    def __init__(self, path: Path, kill: int, events: int, controllers: frozenset[str]) -> None:
        """`kill` and `events` are descriptors of `cgroup.kill` and `cgroup.events`."""
        self._path = path
        self._kill = kill
        self.events = events
        self._controllers = controllers

    @property
    def kill_descriptor(self) -> int:
        """The descriptor of its `cgroup.kill`."""
        return self._kill

    def open_procs(self) -> int:
        """Return a descriptor through which a process moves itself in; the caller closes it."""
        return os.open(self._path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Send SIGKILL to every process in the group."""
        try:
            os.write(self._kill, b"1")
        except OSError:
            pass  # removed already: it was empty

    def processes(self, at_most: int) -> list[int]:
        """Return the pids in the group, but not many more than `at_most`; zombies are not listed."""
        return procfs.read_pids(f"{self._path}/cgroup.procs", at_most)

    def cpu_s(self) -> float | None:
        """Return the processor seconds of all processes that were ever in it; this needs no controller."""
        usage = self._read("cpu.stat").partition(b"\n")[0].removeprefix(b"usage_usec ")
        return int(usage) / 1e6 if usage else None

    def memory_bytes(self) -> int | None:
        """Return the memory of the group in bytes; None without the controller, or if it cannot be read."""
        told = self._read("memory.current") if "memory" in self._controllers else b""
        return int(told) if told else None

    def bound(self, memory_max: int | None, tasks_max: int | None) -> None:
        """Limit the bytes of memory and the number of threads, as far as the controllers are on cgroup v2."""
        if "memory" in self._controllers:
            self._write("memory.max", "max" if memory_max is None else f"{memory_max}")
            self._write("memory.swap.max", "max" if memory_max is None else "0")
            self._write("memory.oom.group", "0" if memory_max is None else "1")
        if "pids" in self._controllers:
            self._write("pids.max", "max" if tasks_max is None else f"{tasks_max}")

    def out_of_memory(self) -> bytes:
        """Return `memory.events`, whose oom_kill counts the victims of this group; empty without the controller."""
        return self._read("memory.events") if "memory" in self._controllers else b""

    def _read(self, name: str) -> bytes:
        return procfs.read(f"{self._path}/{name}")

    def _write(self, name: str, value: str) -> None:
        try:
            (self._path / name).write_text(value)
        except OSError:
            pass  # no swap controller, or the group is gone: the monitor and the rlimits apply anyway

    def is_empty(self) -> bool:
        """Return whether no process is left in it; zombies do not count."""
        try:
            return b"populated 0" in os.pread(self.events, 256, 0)  # at offset 0 the kernel writes it anew
        except OSError as error:
            return error.errno == errno.ENODEV  # it is removed; else unknown, and the caller looks again

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process."""
        for descriptor in (self._kill, self.events):
            if descriptor >= 0:
                os.close(descriptor)
        self._kill = self.events = -1

    def remove(self) -> None:
        """Close the descriptors, and remove the group and those that the job made below it."""
        self.close_in_child()
        _remove(self._path)


def _remove(path: Path) -> None:
    """Remove a group and those below it, as far as they are empty."""
    try:
        os.rmdir(path)  # needs no descriptor, as a walk does
        return
    except OSError:
        pass  # the job made groups below it
    try:
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # still populated (unkillable), or gone
                os.rmdir(folder)
    except RecursionError:  # os.walk recurses up to Python 3.11; a job nested a thousand groups
        pass  # the next start's sweep fails too: the groups are empty, and stay


def find_root(instance: str) -> CgroupRoot | None:
    """Make the supervisor's directory below `home_of` its own cgroup; return None where that is not possible."""
    own = own_directory()
    if own is None or not os.access(own / "cgroup.procs", os.W_OK):
        return None
    owner = InstanceId.of(os.getpid())
    assert owner is not None
    home = home_of(own)
    for controller in controllers_of(home) if home != own else ():
        with contextlib.suppress(OSError):  # in use elsewhere
            (home / "cgroup.subtree_control").write_text(f"+{controller}")
    path = home / f"{owner.name}-{instance}"
    try:
        path.mkdir()
        os.stat(path / "cgroup.kill")  # since Linux 5.14
        controllers = controllers_of(path)
    except OSError:
        _remove(path)
        return None
    for controller in controllers:
        try:
            (path / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pass  # in use elsewhere
    return CgroupRoot(path, own)


def home_of(own: Path) -> Path:
    """Return where the directories of supervisors are: in the group above, if a service manager has given us that one
    and put our process into one below it (systemd's DelegateSubgroup), else in our own.

    A group that hands controllers on may have no processes of its own (cgroups(7)): only in the first case workers'
    groups have the memory and pids controllers.
    """
    above = own.parent
    try:
        is_given = os.getxattr(above, "user.delegate") == b"1"
    except OSError:
        return own
    return above if is_given and os.access(above / "cgroup.procs", os.W_OK) else own


def controllers_of(group: Path) -> frozenset[str]:
    """Return those of CONTROLLERS that a group may hand on. Raise OSError."""
    return CONTROLLERS.intersection((group / "cgroup.controllers").read_text().split())


def own_directory() -> Path | None:
    """Return the cgroup2 directory of this process, from mountinfo (proc(5)) and /proc/self/cgroup, if any."""
    mount = cgroup2_mount()
    if mount is None:
        return None
    for line in Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            directory = mount / path.lstrip("/")
            return directory if directory.is_dir() else None
    return None


def cgroup2_mount() -> Path | None:
    """Return the mount point of cgroup2; None if it is not mounted."""
    return next((mount for kind, _, _, mount in mounts() if kind == "cgroup2"), None)


def mounts() -> Iterator[tuple[str, list[str], str, Path]]:
    """Yield every mounted hierarchy: its type (cgroup or cgroup2), controllers (v1), root directory and mount point."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n"):
        fields, _, rest = line.partition(" - ")
        kind, _, rest = rest.partition(" ")
        _, _, options = rest.partition(" ")  # the mount source may be empty; spaces in it are escaped
        if kind in ("cgroup", "cgroup2"):
            root, mount = (field.encode().decode("unicode_escape") for field in fields.split()[3:5])
            yield kind, options.split(","), root, Path(mount)
