"""The name of a server in lists of processes.

Runs in: supervisor. Only of `killable serve`: an Executor leaves its program alone.
"""

from __future__ import annotations

import sys

from killable.workers.runtime import process_setup

TITLE = "killable: supervisor"


def take_title() -> None:
    """Show this process as `killable: supervisor serve …` (ps, top, /proc/PID/cmdline), with the arguments it has."""
    process_setup.title.find()
    process_setup.title.set(TITLE, *sys.argv[1:])
