"""RQ's worker as its documents have it for performance: what jobs need is loaded before, and shared by fork.

Runs in: a child of a trial.
"""

from __future__ import annotations

import os

import redis  # type: ignore[import-not-found,unused-ignore]
import rq  # type: ignore[import-not-found]

from executor import tasks
from executor.served import LOADS, SOCKET

if __name__ == "__main__":
    if LOADS in os.environ:
        tasks.load()
    rq.Worker(["default"], connection=redis.Redis(unix_socket_path=os.environ[SOCKET])).work(logging_level="ERROR")
