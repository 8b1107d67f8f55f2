"""A `killable serve` with long timeouts for stack dumps and for the exit of a worker.

A busy machine may keep a process from running for seconds. The fixtures `long_dump_waits` and `long_exit_waits` do
the same for a supervisor in the test's own process.

Runs in: the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.killable_command import Command, Server
from support.supervisor_fixture import LONG_DUMP_WAITS, LONG_EXIT_WAITS

NO_STALLS = {"killable.supervisor.telemetry.readiness": {"STALL_S": 60.0}}
"""A server that gets no processor for half a second is not degraded."""
LONG_WAITS = NO_STALLS | {
    "killable.supervisor.attempts.escalation": LONG_DUMP_WAITS,
    "killable.supervisor.attempts.attempt": LONG_EXIT_WAITS,
}


@contextmanager
def long_wait_server(folder: Path, *args: str) -> Iterator[Server]:
    """Serve in a folder; at the end it has to stop as it should, with nothing left of it."""
    server = Server(Command(folder, constants=LONG_WAITS), *args)
    try:
        yield server
    finally:
        code, left, said = server.stop()
    assert (code, left) == (0, []), said
