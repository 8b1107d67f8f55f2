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

import psutil

from killable.workers.runtime import process_setup

LEAVE_S = 2.0
"""For what the command had started to notice that it is gone: then its processes are killed, too."""

LOOK_S = 0.005


def main(command: list[str]) -> int:
    """Return the command's exit code, -N after a signal."""
    parent = os.getppid()
    process_setup.prctl(process_setup.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark hears it, and tells us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    process_setup.prctl(process_setup.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 143
    process = None
    leave_s = LEAVE_S
    try:
        process = subprocess.Popen(command)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                leave_s = 0.0
                return process.returncode
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if process is not None and process.returncode is None:
            process.kill()
        _sweep(leave_s)


def _sweep(leave_s: float) -> None:
    """Return when no process is left below this one; those of before `leave_s` leave by themselves.

    Resource trackers (multiprocessing's, loky's) come last: when all others are gone they unlink their semaphores.
    """
    kill_at = time.monotonic() + leave_s
    kill_trackers_at = kill_at + LEAVE_S
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            now = time.monotonic()
            for each in psutil.Process().children(recursive=True) if now >= kill_at else ():
                with suppress(psutil.NoSuchProcess):
                    if now >= kill_trackers_at or "resource_tracker" not in " ".join(each.cmdline()):
                        each.kill()
            time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
