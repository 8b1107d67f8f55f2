"""Run a command and end every process that it has started, however it ends.

    python subreaper.py COMMAND …

Runs in: a process of its own between the benchmark and a trial. Orphans become its children (PR_SET_CHILD_SUBREAPER),
and it reaps them at once, as init would. It ends all that are left when the command ends, on SIGTERM, and when the
benchmark dies.
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
"""Time for the command's processes to notice its death and exit; then they are killed."""
POLL_S = 0.005


def main(command: list[str]) -> int:
    """Return the command's exit code, or -N after signal N."""
    parent = os.getppid()
    process_setup.prctl(process_setup.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark handles Ctrl-C and sends SIGTERM
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
        _end_descendants(leave_s)


def _end_descendants(leave_s: float) -> None:
    """Wait up to `leave_s`, then kill; return when no process is left below this one.

    Resource trackers (multiprocessing's, loky's) are killed LEAVE_S later: after the other processes have gone they
    unlink their semaphores.
    """
    kill_at = time.monotonic() + leave_s
    kill_trackers_at = kill_at + LEAVE_S
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            now = time.monotonic()
            for process in psutil.Process().children(recursive=True) if now >= kill_at else ():
                with suppress(psutil.NoSuchProcess):
                    if now >= kill_trackers_at or "resource_tracker" not in " ".join(process.cmdline()):
                        process.kill()
            time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
