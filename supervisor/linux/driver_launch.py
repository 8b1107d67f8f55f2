"""Start and end the process that is the driver of a cluster; it ends with the process that has started it.

Runs in: supervisor, on the head; `join_owner` in the driver. Behind `ports`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from killable.supervisor.linux import server_protection
from killable.supervisor.linux.guard_launch import error_output
from killable.workers.runtime import process_setup


class Launched:
    """A process that was started here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def end(self, within_s: float) -> str:
        """Wait for its end, kill it after so long, reap it; return how it has ended. Blocks."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else f"signal {-code}"


def start(module: str, *arguments: str) -> tuple[Launched, socket.socket]:
    """Start `python -m MODULE DESCRIPTOR OWNER ARGUMENTS`; return its process and our end of its socket. Raise OSError.

    To be called in a thread that stays: the process is killed when that ends (prctl(2), PR_SET_PDEATHSIG).
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL, stdout=error_output(), stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return Launched(process), ours


def join_owner(descriptor: int, owner: int) -> socket.socket:
    """Return the driver's end of its socket. From now on this process ends with its owner, and by no other signal that
    is meant for a whole service. Raise ProcessLookupError: the owner is gone.
    """
    server_protection.protect()  # its environment has Ray's token
    process_setup.die_with(owner)
    process_setup.ignore_stop_signals()
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
