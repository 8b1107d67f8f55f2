"""What dead ones of us have left: groups of supervisors that are gone, processes of a guard that was killed.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from killable.supervisor.machine.cgroup import own_directory, owner_name

EMPTY_MS = 1000
"""How long a group may take to become empty after it was killed, at the start of a supervisor."""

COOKIE = "KILLABLE_INSTANCE"
"""In the environment of the guard's exec: a fork keeps it, and an exec passes it on unless the job cleans its
environment.
"""


def kill_by_cookie(value: str) -> int:
    """SIGKILL every process that carries this cookie; return how many there were. Raise OSError when not all could be
    looked at.

    Call again until it returns 0: they fork. The environment is read again after the pidfd is open, so that a number
    that was given to someone else meanwhile is not hit.
    """
    wanted = f"{COOKIE}={value}\0".encode()
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or not _carries(name, wanted):
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        try:
            if _carries(name, wanted):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                found += 1
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
    return found


def _carries(pid: str, wanted: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return wanted in file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # gone, or another user's


def sweep_groups() -> list[str]:
    """Kill and remove the groups of supervisors that are gone; return their names."""
    own = own_directory()
    if own is None:
        return []
    swept = []
    for directory in _ownerless(own):
        for path in (directory, *(child for child in directory.iterdir() if child.is_dir())):
            try:
                (path / "cgroup.kill").write_bytes(b"1")
            except OSError:
                continue
        for folder, _, _ in os.walk(directory, topdown=False):
            _remove_when_empty(Path(folder))
        swept.append(directory.name)
    return swept


def _ownerless(own: Path) -> Iterator[Path]:
    """Yield the groups whose owner is gone; of another boot or pid namespace nothing can be told, so those are left."""
    ours = owner_name(os.getpid())
    assert ours is not None
    here = ours.rsplit("-", 2)[0]
    for directory in own.glob(f"{here}-*"):
        name, _, _instance = directory.name.rpartition("-")
        pid = name.removeprefix(f"{here}-").partition("-")[0]
        try:
            ownerless = pid.isdigit() and directory.is_dir() and owner_name(int(pid)) != name
        except OSError:
            continue  # nothing is known of its owner
        if ownerless:
            yield directory


def _remove_when_empty(directory: Path) -> None:
    """Remove a group whose processes were just killed; `cgroup.events` tells when they are gone (cgroups(7))."""
    try:
        with open(directory / "cgroup.events", "rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while b"populated 1" in os.pread(events.fileno(), 256, 0) and poll.poll(EMPTY_MS):
                pass
        directory.rmdir()
    except OSError:
        pass  # gone meanwhile, or something in it cannot be killed
