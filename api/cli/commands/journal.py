"""`killable journal`: check, copy or save the file in which a server keeps its jobs.

Runs in: the machine of the server (Linux).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit

if TYPE_CHECKING:
    from killable.api.cli.declarations.server import JournalAction
    from killable.supervisor.journal.inspection import JournalFinding


def journal(action: JournalAction, file: Path, new: Path | None, as_json: bool) -> None:
    if (new is None) != (action == "verify"):
        missing = "needs NEW, the file to write" if new is None else "takes one file"
        raise click.BadParameter(f"{action} {missing}", param_hint="NEW")
    with errors.reporting(as_json):
        require_linux("journal")
        from killable.supervisor.journal import inspection

        found = _found(action, str(file), str(new))
        if as_json:
            console.print_json(_members(found, file, new))
        else:
            click.echo(f"{file}: {inspection.summary(found)}")
            for number, job_id, why in found.bad:
                click.echo(f"  row {number}, {job_id or 'unknown job'}: {why}")
            if new is not None:
                click.echo(f"written: {new}")
        is_failure = action == "verify" and not found.is_sound
        raise click.exceptions.Exit(CommandExit.FAILED if is_failure else CommandExit.OK)


def _found(action: JournalAction, file: str, new: str) -> JournalFinding:
    from killable.supervisor.journal import inspection

    match action:
        case "verify":
            return inspection.verify(file)
        case "backup":
            return inspection.backup(file, new)
        case "salvage":
            return inspection.salvage(file, new)


def _members(found: JournalFinding, file: Path, new: Path | None) -> dict[str, Any]:
    return {
        "file": str(file),
        "written": None if new is None else str(new),
        "sound": found.is_sound,
        "jobs": found.jobs,
        "waiting": found.waiting,
        "running": found.running,
        "ended": found.ended,
        "damaged_rows": [row._asdict() for row in found.bad],
        "lost_transactions": found.lost,
    }
