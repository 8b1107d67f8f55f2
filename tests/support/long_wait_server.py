"""A `killable serve` with long timeouts for stack dumps and for the exit of a worker.

A busy machine may keep a process from running for seconds. The fixtures `long_dump_waits` and `long_exit_waits` do
the same for a supervisor in the test's own process.

Runs in: the tests; the program in the server's process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.killable_command import Command, Server
from support.supervisor_fixture import LONG_DUMP_WAITS, LONG_EXIT_WAITS

_PROGRAM = f"""
import runpy, sys
from unittest.mock import patch

patch.multiple("killable.supervisor.attempts.escalation", **{LONG_DUMP_WAITS}).start()  # fails without that name
patch.multiple("killable.supervisor.attempts.attempt", **{LONG_EXIT_WAITS}).start()
del sys.argv[:3]  # -c python -m
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@contextmanager
def long_wait_server(folder: Path, *args: str) -> Iterator[Server]:
    """Serve in a folder; at the end it has to stop as it should, with nothing left of it."""
    server = Server(Command(folder, before=[sys.executable, "-c", _PROGRAM]), *args)
    try:
        yield server
    finally:
        code, left, said = server.stop()
    assert (code, left) == (0, []), said
