"""`killable journal`: check, copy or save the file in which a server keeps its jobs.

Runs in: the machine of the server (Linux).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.parameters.options import Json

if TYPE_CHECKING:
    from killable.supervisor.journal.inspection import JournalFinding


class JournalAction(StrEnum):
    """What to do."""

    VERIFY = "verify"
    BACKUP = "backup"
    SALVAGE = "salvage"


def journal(
    action: Annotated[
        JournalAction, typer.Argument(metavar="verify|backup|salvage", help="What to do.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The journal.", show_default=False)],
    new: Annotated[
        Path | None, typer.Argument(metavar="NEW", help="File to write: for backup and salvage.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check, copy or save the file in which a server keeps its jobs.

    `verify` reads all of it: 0 if it is sound, 1 if rows are damaged or its end
    is missing, 65 if it is no journal. `backup` writes a copy, also while the
    server runs. `salvage` writes what can still be read; if the end is missing,
    jobs that wait in it may have run, and are lost instead of run again. The
    file itself is never changed.
    """
    if (new is None) != (action is JournalAction.VERIFY):
        missing = "needs NEW, the file to write" if new is None else "takes one file"
        raise typer.BadParameter(f"{action} {missing}", param_hint="NEW")
    with errors.reporting(as_json):
        require_linux("journal")
        from killable.supervisor.journal import inspection

        found = _found(action, str(file), str(new))
        if as_json:
            console.print_json(_members(found, file, new))
        else:
            typer.echo(f"{file}: {inspection.summary(found)}")
            for number, job_id, why in found.bad:
                typer.echo(f"  row {number}, {job_id or 'unknown job'}: {why}")
            if new is not None:
                typer.echo(f"written: {new}")
        is_failure = action is JournalAction.VERIFY and not found.is_sound
        raise typer.Exit(CommandExit.FAILED if is_failure else CommandExit.OK)


def _found(action: JournalAction, file: str, new: str) -> JournalFinding:
    from killable.supervisor.journal import inspection

    match action:
        case JournalAction.VERIFY:
            return inspection.verify(file)
        case JournalAction.BACKUP:
            return inspection.backup(file, new)
        case JournalAction.SALVAGE:
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
