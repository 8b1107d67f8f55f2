"""exit-codes.md: the exit codes of the command and of worker processes."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable

import killable.api.cli
import killable.api.client
import killable.supervisor.configuration
from killable.api.cli.app import app
from killable.api.cli.display.exit_codes import EXIT_CODES, CommandExit, exit_code
from killable.workers.error_codes import CODES
from killable.workers.errors import KillableError
from killable.workers.exit_codes import ExitCode
from pages.markdown import attribute_docs, code, document, table


def page() -> str:
    meanings = dict(re.findall(r"(\d+) ([^,.]+)", str(app.epilog)))
    rows = ((str(int(each)), meanings[str(int(each))], ", ".join(map(code, _codes(each)))) for each in CommandExit)
    workers = ((str(int(each)), attribute_docs(ExitCode)[each.name]) for each in ExitCode)
    return document(
        "Exit codes",
        INTRO,
        table(("Exit code", "Meaning", "Error codes"), rows),
        WORKERS,
        table(("Exit code", "Meaning"), workers),
    )


def _codes(exits_with: int) -> Iterable[str]:
    yield from (name for name in CODES if EXIT_CODES.get(name, CommandExit.FAILED) == exits_with)
    yield from sorted({kind.code for kind in _own_errors() if exit_code(kind()) == exits_with})


def _own_errors() -> Iterable[type[KillableError]]:
    """Return the errors that only the command and the client raise: their codes are in no table."""
    for package in (killable.api.cli, killable.api.client, killable.supervisor.configuration):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return (kind for kind in _subclasses(KillableError) if kind.code not in CODES)


def _subclasses(kind: type[KillableError]) -> Iterable[type[KillableError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


INTRO = """
The command `killable` exits with one of these. They follow sysexits(3); 124 is that of timeout(1), 130 that of a
shell. With `--json` the error itself is on stdout: `{"error": {"code": ..., "message": ..., "retryable": ...}}`.
[Error codes](codes.md) says what each code means.
"""
WORKERS = """
## Exit codes of a worker process

A worker that ends by itself exits with one of these. It is `exit_code` in a [certificate](certificate.md).
Once the job's function was entered, any exit code without a result is the job's own: it ends with [`exit`](codes.md).
"""
