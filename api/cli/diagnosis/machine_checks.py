"""Test what the server requires of a machine and what it can use. Each feature is tried, not looked up.

Runs in: any machine.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from killable.api.cli.diagnosis.check_result import Check, Status
from killable.api.cli.diagnosis.init_check import init_check
from killable.api.cli.diagnosis.limit_enforcement import limit_checks
from killable.api.cli.diagnosis.sandbox_checks import sandbox_checks

PR_SET_PDEATHSIG, PR_GET_CHILD_SUBREAPER = 1, 37
"""linux/prctl.h"""
PYTHON_WANTED = (3, 11)
FILES_WANTED = 4096
"""Ten descriptors per worker, one per stream: enough for hundreds of each."""
PIDS_WANTED = 4096
DEATH_S = 5.0
"""Seconds for a child of a test to be gone after cgroup.kill: it takes a millisecond."""


def examine() -> Iterator[Check]:
    """Yield every check, the necessary ones first."""
    yield _python()
    if sys.platform != "linux":
        yield Check(
            "Linux",
            "fail",
            sys.platform,
            "`killable serve` runs on Linux only; the client, submit, ps and kill run here",
        )
        return
    yield Check("Linux", "ok", platform.release())
    yield from (_pidfd(), _subreaper(), _death_signal(), init_check(), _memfd(), *_cgroup())
    yield from (*limit_checks(), *sandbox_checks())
    yield from (_open_files(), _pids(), _temporary_folder(), *_models())


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info >= PYTHON_WANTED:
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, f"{'.'.join(map(str, PYTHON_WANTED))} or later is needed")


def _pidfd() -> Check:
    def probe() -> str:
        descriptor = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(descriptor, 0)  # signal 0 only checks that it could be sent
        finally:
            os.close(descriptor)
        return "pidfd_open and pidfd_send_signal work"

    advice = "signals are sent by pidfd, as a pid may be reused: allow pidfd_open in the container's seccomp profile"
    return _tried("pidfd", probe, "fail", advice)


def _subreaper() -> Check:
    def probe() -> str:
        value = ctypes.c_int()
        if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return "orphans of a job can be found"

    return _tried("subreaper", probe, "fail", "allow prctl in the container's seccomp profile")


def _death_signal() -> Check:
    """Kill a process, and check that its child, which set PR_SET_PDEATHSIG, dies with it."""
    reads, writes = os.pipe()
    program = f"""
import ctypes, os, signal
if os.fork() == 0 and ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL, 0, 0, 0) == 0:
    os.write({writes}, b"1")
    signal.pause()
os.close({writes})
signal.pause()
"""
    name, advice = (
        "death signal",
        "workers must die with their zygote: allow prctl in the container's seccomp profile",
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", program], pass_fds=[writes], stderr=subprocess.DEVNULL)
    try:
        os.close(writes)
        armed = _readable(reads) and os.read(reads, 1) == b"1"
        child.kill()
        died = armed and _readable(reads) and os.read(reads, 1) == b""
    finally:
        child.kill()
        child.wait()
        os.close(reads)
    if died:
        return Check(name, "ok", "a child dies with its parent")
    return Check(name, "fail", "a child outlives its parent", advice)


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], DEATH_S)[0])


def _memfd() -> Check:
    def probe() -> str:
        os.close(os.memfd_create("killable-doctor"))
        return "memfd_create works"

    return _tried("memfd", probe, "fail", "allow memfd_create in the container's seccomp profile")


def _tried(name: str, probe: Callable[[], str], otherwise: Status, advice: str) -> Check:
    try:
        return Check(name, "ok", probe())
    except (OSError, AttributeError) as error:  # a libc or a Python without that call
        return Check(name, otherwise, f"{getattr(error, 'strerror', None) or error}", advice)


def _cgroup() -> list[Check]:
    """Find cgroup2, move a child into a group of its own, and kill that group."""
    from killable.supervisor.linux.cgroup import cgroup2_mount, home_of, own_directory

    name, without = (
        "cgroup v2",
        "; without it, a kill finds the descendants of a worker, and misses processes that hide from that search",
    )
    mount, own = cgroup2_mount(), own_directory()
    if mount is None:
        return [Check(name, "warn", "not mounted", f"boot with systemd.unified_cgroup_hierarchy=1{without}")]
    if own is None:
        return [Check(name, "warn", f"{mount}, but without this process's group", f"mount the host's cgroup2{without}")]
    home = home_of(own)
    group = home / f"killable-doctor-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        advice = f"start with `systemd-run --user --scope -p Delegate=yes`, or make it writable for this user{without}"
        return [Check(name, "warn", f"{home}: {(error.strerror or str(error)).lower()}", advice)]
    try:
        return [Check(name, "ok", str(home)), *_move_and_kill(group)]
    finally:
        group.rmdir()


def _move_and_kill(group: Path) -> Iterator[Check]:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        try:
            (group / "cgroup.procs").write_text(str(child.pid))
        except OSError as error:
            advice = "write access to cgroup.procs of the common ancestor is needed (cgroups(7), delegation)"
            yield Check("cgroup move", "warn", f"{(error.strerror or str(error)).lower()}", advice)
            return
        yield Check("cgroup move", "ok", "a child was moved into a group of its own")
        try:
            (group / "cgroup.kill").write_text("1")
            child.wait(DEATH_S)
        except FileNotFoundError:
            yield Check(
                "cgroup.kill",
                "warn",
                "missing",
                "Linux 5.14 or later has it; without it, descendants are killed one by one",
            )
        except subprocess.TimeoutExpired:
            yield Check(
                "cgroup.kill",
                "warn",
                f"the child was still alive after {DEATH_S:g} s",
                "descendants are killed one by one",
            )
        else:
            yield Check("cgroup.kill", "ok", "it killed the whole group")
    finally:
        child.kill()
        child.wait()
        child.stdin.close()


def _open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft == resource.RLIM_INFINITY or soft >= FILES_WANTED:
        return Check("open files", "ok", shown)
    return Check(
        "open files", "warn", shown, f"`ulimit -n {FILES_WANTED}` allows many workers and streams (hard limit {hard})"
    )


def _pids() -> Check:
    import resource

    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    found = f"pid_max {pid_max}, processes {'unlimited' if soft == resource.RLIM_INFINITY else soft}"
    if pid_max >= PIDS_WANTED and (soft == resource.RLIM_INFINITY or soft >= PIDS_WANTED):
        return Check("processes", "ok", found)
    return Check(
        "processes",
        "warn",
        found,
        f"raise them with `ulimit -u {PIDS_WANTED}` and `sysctl kernel.pid_max={PIDS_WANTED}`",
    )


def _temporary_folder() -> Check:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix="killable-doctor-"):
            return Check("temporary files", "ok", folder)
    except OSError as error:
        return Check("temporary files", "fail", f"{folder}: {error.strerror}", "set TMPDIR to a writable folder")


def _models() -> Iterator[Check]:
    """Look for the packages of the built-in job types, and advise how to install what is missing."""
    from killable.workers.builtin import embed, generate, tokenize

    for module in (tokenize, embed, generate):
        name = module.__name__.rpartition(".")[2]
        missing = [package for package in module.REQUIRES if importlib.util.find_spec(package) is None]
        if missing:
            lines = " && ".join(dict.fromkeys(module.REQUIRES[package] for package in missing))
            yield Check(f"job type {name}", "warn", f"{', '.join(missing)} not installed", lines)
        else:
            yield Check(f"job type {name}", "ok", ", ".join(module.REQUIRES))
    try:
        generate.check_processor()
    except RuntimeError as error:
        yield Check("processor", "warn", str(error), "the job type generate cannot run here")
