"""Processes that a dead guard has left: found by the cookie in their environment, killed through a pidfd.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import os
import signal

COOKIE = "KILLABLE_INSTANCE"
"""In the environment of the guard's exec: a fork keeps it, and an exec passes it on unless the job cleans its
environment.
"""


def kill_by_cookie(value: str) -> int:
    """SIGKILL every process that carries this cookie; return how many there were.

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
    except OSError:
        return False  # gone, or another user's
