"""The command `killable`, run in a fork of a process that has already imported all of it.

That saves half a second for each run. The output, the exit code and the effects on a server are those of the command.
A test that sends signals to the command, or reads its output while it runs, starts it as a user does
(`Command.start`). Servers are always started that way.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pkgutil
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from tempfile import TemporaryFile

from support.processes import permanent_pids

import killable.api.cli

MODULE = "killable.api.cli"
_ITS_OWN = [found.name for found in pkgutil.walk_packages(killable.api.cli.__path__, f"{MODULE}.")]
_LATE = [
    *["killable.api.http.app", "killable.supervisor.supervisor", "killable.supervisor.configuration.inventory"],
    *["killable.supervisor.telemetry.logs", "killable.supervisor.telemetry.metrics"],
    *["typer._adapters", "typer.rich_utils", "httpcore", "h11", "uvicorn"],
]
"""What it imports where it needs it."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([name for name in [*_ITS_OWN, *_LATE] if not name.endswith("__main__")])


def start_importing() -> None:
    """Start the process that is forked, and what the library starts with it; they end with this one."""
    forkserver.ensure_running()
    permanent_pids.update((forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid))


def run_imported(
    args: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without input."""
    with TemporaryFile() as out, TemporaryFile() as err:
        files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        process = _context.Process(target=_become, args=(list(args), str(folder), dict(environment), files))
        process.start()
        try:
            process.join(timeout_s)
            if process.exitcode is None:
                process.kill()
                process.join()
                raise subprocess.TimeoutExpired(args, timeout_s)
            code = process.exitcode
        finally:
            process.close()
        said = [_text(file) for file in (out, err)]
    return subprocess.CompletedProcess(args, code, *said)


def _become(args: list[str], folder: str, environment: dict[str, str], files: list[str]) -> None:
    """In the fork: with its streams, its environment and its folder, as if it had been started with them."""
    for number, (file, flags) in enumerate([(os.devnull, os.O_RDONLY), *((file, os.O_WRONLY) for file in files)]):
        descriptor = os.open(file, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False))
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), errors="backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [MODULE, *args]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def _text(file: io.IOBase) -> str:
    file.seek(0)
    said: bytes = file.read()
    return said.decode()
