"""A `killable serve` that waits long for a stack, and for a worker to leave: a busy machine may keep it for seconds.

What the fixtures `patient_with_dumps` and `patient_with_leaving` are for a supervisor in the test's own process.

Runs in: the tests; the program in the server's process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.served import Command, Server
from support.supervising import PATIENT_WITH_DUMPS, PATIENT_WITH_LEAVING

_PROGRAM = f"""
import runpy, sys
from unittest.mock import patch

patch.multiple("killable.supervisor.attempts.escalation", **{PATIENT_WITH_DUMPS}).start()  # fails without that name
patch.multiple("killable.supervisor.attempts.attempt", **{PATIENT_WITH_LEAVING}).start()
del sys.argv[:3]  # -c python -m
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@contextmanager
def patient_server(folder: Path, *args: str) -> Iterator[Server]:
    """Serve in a folder; at the end it has to stop as it should, with nothing left of it."""
    server = Server(Command(folder, before=[sys.executable, "-c", _PROGRAM]), *args)
    try:
        yield server
    finally:
        code, left, said = server.stop()
    assert (code, left) == (0, []), said
