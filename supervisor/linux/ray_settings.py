"""What Ray needs of a machine, and whether its head answers. Imports nothing of Ray.

Runs in: supervisor; `killable doctor`. Behind `ports`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping

REACH_S = 5.0
"""How long the head may take to accept a connection."""
MEMORY_MONITOR = "RAY_memory_monitor_refresh_ms"
KILLS_CHILDREN = "RAY_kill_child_processes_on_worker_exit"
"""On by default: Ray sends SIGKILL to what an actor has started, our guards too, which could end nothing any more. Off
in the environment of our actors.
"""
KILLS_ORPHANS = ("RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper", "RAY_process_group_cleanup_enabled")
"""Off by default: the raylet does that, whatever the actor's environment says."""


def reach(address: str) -> None:
    """Connect to Ray's head, and hang up. Raise OSError: nothing listens there.

    `auto`, or another address that only Ray understands, is not looked at.
    """
    host, colon, port = address.rpartition(":")
    if colon and host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Else Ray aborts its driver when its head has not answered for a minute."""
NEVER_S = 86400
"""In seconds: a day."""


def stay_without_head() -> None:
    """Have Ray keep this process when Ray's head is silent for a minute. Before `ray.init`."""
    os.environ[RECONNECT] = str(NEVER_S)


def take_signals_back() -> None:
    """Have Python handle SIGTERM again, which `ray.init` has taken: it would print stacks first. In the main thread; in
    another one nothing handles signals.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        signal.siginterrupt(signal.SIGTERM, False)  # as the event loop has it


def kills_children(environ: Mapping[str, str] = os.environ) -> str:
    """Return the setting by which an actor with this environment kills what it has started; empty: it does not."""
    return "" if environ.get(KILLS_CHILDREN) == "0" else KILLS_CHILDREN


def kills_guards(environ: Mapping[str, str] = os.environ) -> str:
    """Return the setting by which a raylet that was started with this would kill the guards of nodes; empty: none."""
    return next((name for name in KILLS_ORPHANS if environ.get(name, "").lower() in ("1", "true")), "")


def has_memory_monitor(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether Ray ends whole processes of its nodes when memory is short, if it was started with this."""
    return environ.get(MEMORY_MONITOR) != "0"
