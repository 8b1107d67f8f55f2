"""What Ray needs of a machine, and whether its head answers. Imports nothing of Ray.

Runs in: supervisor; `killable doctor`. Behind `ports`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

REACH_S = 5.0
"""How long the head may take to accept a connection."""
MEMORY_MONITOR = "RAY_memory_monitor_refresh_ms"


def reach(address: str) -> None:
    """Connect to Ray's head, and hang up. Raise OSError: nothing listens there.

    `auto`, or another address that only Ray understands, is not looked at.
    """
    host, colon, port = address.rpartition(":")
    if colon and host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


def has_memory_monitor(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether Ray ends whole processes of its nodes when memory is short, if it was started with this."""
    return environ.get(MEMORY_MONITOR) != "0"
