"""Run a command so that nothing of it is left, whatever it started and however it ends.

    python cage.py COMMAND …

Runs in: a process of its own between the benchmark and a trial. Orphans become its children (PR_SET_CHILD_SUBREAPER),
which it reaps at once, as init would. When the command ends, when it is told to (SIGTERM) or when the benchmark dies,
it ends whoever still lives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from killable.workers import confine

LEAVE_S = 2.0
"""For what the command had started to notice that it is gone: then its processes are killed, too."""


def main(command: list[str]) -> int:
    """Return the command's exit code, -N after a signal."""
    parent = os.getppid()
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark hears it, and tells us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 143
    began = time.time()
    process = subprocess.Popen(command)
    leave_s = LEAVE_S
    try:
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                leave_s = 0.0
                return process.returncode
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if process.returncode is None:
            process.kill()
        _sweep(leave_s)
        _remove_semaphores(began)


def _sweep(leave_s: float) -> None:
    """Return when no process is left below this one; those of before `leave_s` leave by themselves."""
    until = time.monotonic() + leave_s
    with suppress(ChildProcessError):
        while True:
            if time.monotonic() < until:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)
                continue
            for each in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            os.waitpid(-1, 0)


def _remove_semaphores(began: float) -> None:
    """Unlink what loky's resource tracker would have, had it not been ended with the rest."""
    for path in Path("/dev/shm").glob("sem.loky-*-*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= began and not psutil.pid_exists(int(path.name.split("-")[1])):
                path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
