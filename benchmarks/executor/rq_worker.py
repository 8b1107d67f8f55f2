"""RQ's worker, set up for performance as its documentation advises: it preloads before the fork of each job.

Runs in: a child of a trial.
"""

from __future__ import annotations

import os

import redis  # type: ignore[import-not-found,unused-ignore]
import rq  # type: ignore[import-not-found]

from executor import tasks
from executor.peers import PRELOAD_VARIABLE, SOCKET_VARIABLE

if __name__ == "__main__":
    if PRELOAD_VARIABLE in os.environ:
        tasks.preload()
    connection = redis.Redis(unix_socket_path=os.environ[SOCKET_VARIABLE])
    rq.Worker(["default"], connection=connection).work(logging_level="ERROR")
