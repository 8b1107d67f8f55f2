"""Start a guard. `zygote_host` reads what it reports and handles its death.

Runs in: supervisor. Behind `ports`. The host process is left as it is: `subprocess` starts the guard (the host is
never forked), and no signal handler, subreaper or waitpid(-1) is set up here.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping

import killable
import killable.workers
from killable.workers.protocol import fd_passing


def package_folders() -> dict[str, str]:
    """Return the folders of the packages, for interpreters in which they are not installed."""
    return {
        "killable": os.path.dirname(killable.__file__),
        "killable.workers": os.path.dirname(killable.workers.__file__),
    }


def error_output() -> int:
    """Return the descriptor for error output of guard and zygote: stderr, if this program has one."""
    try:
        descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
        os.fstat(descriptor)
    except (AttributeError, ValueError, OSError):
        return subprocess.DEVNULL
    return descriptor


def start_guard(
    python: str, folder: str, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a guard; return its process and the supervisor's end of its socket. Raise OSError."""
    ours, theirs = fd_passing.open_pair()
    packages = package_folders()
    arguments = {"packages": packages, "socket_fd": theirs.fileno(), "owner": os.getpid()}
    boot = os.path.join(packages["killable.workers"], "processes", "boot.py")
    try:
        with theirs:
            guard = subprocess.Popen(
                [python or sys.executable, "-S", "-P", boot, "guard", json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=error_output(),
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                cwd=folder or None,
                env=environment,
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return guard, ours
