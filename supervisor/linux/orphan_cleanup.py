"""End and remove what dead supervisors left behind: cgroups, processes and temporary folders, found by name.

Runs in: supervisor; a thread of its own at the start. Behind `ports`.

Each of them carries the name of its owner (`instance_id`). Nothing is touched if the owner lives, or if that cannot be
determined (another boot, another pid namespace).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from killable.supervisor import clock
from killable.supervisor.linux import env_marker
from killable.supervisor.linux.cgroup import home_of, own_directory
from killable.supervisor.linux.instance_id import InstanceId, owner_of_folder, sees_own_pids
from killable.workers.runtime import leftover_memory
from killable.workers.runtime.tmp_removal import remove_tree

EMPTY_MS = 1000
"""How long a killed cgroup may take to become empty, at the start of a supervisor."""
OWNER_MS = 1000
"""How long a supervisor that was killed may take to disappear."""
WAVES_S = 3.0
"""How long to kill processes that fork on, again and again."""
SWEEP_S = 8.0
"""How long a start waits for the whole sweep: reading the /proc files of a process that the kernel holds can block."""

logger = logging.getLogger("killable.system")


def sweep_in_thread(finished: Callable[[], None]) -> None:
    """End and remove what dead supervisors left, in a thread, and log it. `finished` is called in that thread when all
    processes are dealt with. The folders, which may hold millions of files, are removed after that.
    """

    def sweep() -> None:
        try:
            _try(_sweep_what_runs)
        finally:
            finished()
        import tempfile

        _try(lambda: sweep_folders(tempfile.gettempdir()))

    _start_thread(sweep)


def sweep_marker_in_thread(marker: str, patience_s: float, finished: Callable[[], None]) -> None:
    """End the processes with this environment marker, whose guard is gone, in a thread. `finished` is called in that
    thread, after `patience_s` at the latest.
    """

    def sweep() -> None:
        try:
            _try(lambda: _sweep_processes(lambda found: found == marker, patience_s))
        finally:
            finished()

    _start_thread(sweep)


def sweep_owner(owner: InstanceId) -> bool:
    """End one supervisor, if it still runs, and all that it has left; return whether nothing of it is there any more.

    False, too, if that cannot be known: it had another boot or pid namespace, or a guard did not end in time, so that
    processes which cleaned their environment may be left. Blocks, for GUARD_S and WAVES_S at most. Raise OSError.
    """
    if not owner.is_here() or owner.pid == os.getpid() or not _end_owner(owner):
        return False

    def is_meant(marker: str) -> bool:
        return marker.partition("/")[0] == owner.name

    is_complete = env_marker.let_guards_finish(is_meant)
    sweep_groups(owner.__eq__)
    return _sweep_processes(is_meant, WAVES_S) and is_complete and not _groups_of(owner.__eq__)


def _end_owner(owner: InstanceId) -> bool:
    """End this process if it still runs; return whether it has ended."""
    try:
        pidfd = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return True
    try:
        if not owner.is_gone():  # else another one has its pid
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(OWNER_MS)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
    return owner.is_gone()


def _try(sweep: Callable[[], object]) -> None:
    """Log a failure (no descriptor is left), and leave the rest to the next start."""
    try:
        sweep()
    except OSError as error:
        logger.error("sweep_failed", extra={"detail": str(error)})


def _sweep_what_runs() -> None:
    if sees_own_pids():
        is_meant = env_marker.ownerless()  # only once: the guard of an owner that dies meanwhile is still at work
        env_marker.let_guards_finish(is_meant)
        for name in sweep_groups():
            logger.warning("swept", extra={"cgroup": name})
        _sweep_processes(is_meant, WAVES_S)


def _start_thread(target: Callable[[], None]) -> None:
    """Start a thread outside the loop's executor: its threads are waited for at the end and may all be in use."""
    try:
        threading.Thread(target=target, name="killable-sweep", daemon=True).start()
    except RuntimeError:  # no thread can be started: the loop has to wait
        target()


def _sweep_processes(is_meant: Callable[[str], bool], patience_s: float) -> bool:
    """End the processes with these markers, and log each; return whether none is left. Raise OSError if that cannot be
    known.
    """
    swept, left = env_marker.kill_waves(is_meant, clock.monotonic() + patience_s)
    for event, level, processes in (("swept", logging.WARNING, swept), ("not_swept", logging.ERROR, left)):
        for found in processes:
            fields = {"pid": found.pid, "command": found.command, "cookie": found.marker}
            logger.log(level, event, extra=fields)
    return not left


# ── groups ──


def sweep_groups(is_meant: Callable[[InstanceId], bool] = InstanceId.is_gone) -> list[str]:
    """Kill and remove the cgroups of supervisors that are gone, or of those that are meant; return their names."""
    swept = []
    for directory in _groups_of(is_meant):
        try:
            paths = [directory, *(child for child in directory.iterdir() if child.is_dir())]
        except FileNotFoundError:
            continue  # another start has removed it
        for path in paths:
            try:
                (path / "cgroup.kill").write_bytes(b"1")
            except OSError:
                continue
        for folder, _, _ in os.walk(directory, topdown=False):
            _remove_when_empty(Path(folder))
        swept.append(directory.name)
    return swept


def _groups_of(is_meant: Callable[[InstanceId], bool]) -> list[Path]:
    """Return the cgroups of these owners. For another boot or pid namespace it is unknown whether one is gone."""
    own = own_directory()
    if own is None:
        return []
    found = []
    for directory in home_of(own).glob("killable-*"):
        owner = InstanceId.named(directory.name.rpartition("-")[0])  # the last part is the instance
        if owner is not None and directory.is_dir() and is_meant(owner):
            found.append(directory)
    return found


def _remove_when_empty(directory: Path) -> None:
    """Remove a cgroup whose processes were just killed; `cgroup.events` reports when they are gone (cgroups(7))."""
    try:
        with open(directory / "cgroup.events", "rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while b"populated 1" in os.pread(events.fileno(), 256, 0) and poll.poll(EMPTY_MS):
                pass
        directory.rmdir()
    except OSError:
        pass  # gone meanwhile, or something in it cannot be killed


# ── temporary folders ──


def sweep_folders(parent: str) -> None:
    """Remove the temporary folders of supervisors that are gone, and log each."""
    try:
        names = os.listdir(parent)
    except OSError:
        return
    for name in names:
        owner = owner_of_folder(name)
        path = os.path.join(parent, name)
        if owner is None or not owner.is_gone() or not _is_own_folder(path):
            continue
        leftover_memory.remove_all(path)
        remove_tree(path)  # follows no symbolic link, not even one that is made meanwhile
        logger.warning("swept", extra={"folder": path})


def _is_own_folder(path: str) -> bool:
    """Return whether it is a directory, not a link to one, and belongs to the user of this process."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
