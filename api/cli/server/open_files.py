"""How many files a server may have open, and how many connections fit beside its workers.

Runs in: supervisor, before it starts.
"""

from __future__ import annotations

import resource

DESCRIPTORS = 1 << 16
FILES_BESIDES = 128
"""Descriptors for everything but connections and workers: guards, zygotes, the journal, inputs that wait, and
connections that were closed to make room in this turn of the loop.
"""
FILES_OF_A_WORKER = 11
CONNECTIONS_MIN = 10
"""Fewer would be of no use; then workers may lack descriptors."""


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit, 65536 at most (setrlimit(2)). Return it.

    A stream needs one descriptor, a worker eleven; the usual 1024 are fewer than `server.connections_max`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def fitting_connections(wanted: int, files: int, workers: int) -> int:
    """Return how many connections a server with so many workers may have, with this limit of open files."""
    return max(CONNECTIONS_MIN, min(wanted, files - FILES_BESIDES - workers * FILES_OF_A_WORKER))
