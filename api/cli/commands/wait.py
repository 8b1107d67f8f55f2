"""`killable wait`: wait until jobs have ended, and say how each of them did.

Runs in: any machine.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import click
from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit, exit_code
from killable.api.cli.display.job_state import state_text
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling
from killable.workers.error_codes import CODES
from killable.workers.errors import JobError
from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.api.client.client import Client, JobHandle


class Standing(NamedTuple):
    """How a job ended, or where it stood when the wait was over. `code` is that of its error."""

    job_id: str
    state: str
    code: str | None
    exits_with: int


def wait(jobs: tuple[str, ...], timeout: float | None, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        found = _find(client, jobs)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        standings = []
        for job in found:
            standings.append(_wait_for(job, deadline))
            if not as_json:
                console.print_lines([_line(standings[-1])])
        if as_json:
            console.print_json({"jobs": [_members(each) for each in standings]})
        going_on = sum(each.exits_with == CommandExit.NOT_NOW for each in standings)
        if going_on and not as_json:
            verb = "has not ended and continues" if going_on == 1 else "have not ended and continue"
            console.stderr_console().print(f"{spelling.counted(going_on, 'job')} {verb}")
    if going_on:
        raise click.exceptions.Exit(CommandExit.NOT_NOW)
    raise click.exceptions.Exit(next((each.exits_with for each in standings if each.exits_with), CommandExit.OK))


def _find(client: Client, names: tuple[str, ...]) -> list[JobHandle]:
    """Return the jobs of these names, each once. Raise Refused `unknown_job` before there is anything to wait for."""
    from killable.api.cli.parameters.job_lookup import find_job

    found = {job.id: job for job in (find_job(client, name) for name in names)}
    for job in found.values():
        job.record()
    return list(found.values())


def _wait_for(job: JobHandle, deadline: float) -> Standing:
    from killable.api.client.errors import NotEnded

    try:
        job.result(wait_s=None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
    except NotEnded as error:
        return Standing(job.id, str(error.facts["record"]["state"]), None, exit_code(error))
    except JobError as error:
        row = CODES.get(error.code)  # None: a code of a newer server
        return Standing(job.id, (row and row.state) or "failed", error.code, exit_code(error))
    return Standing(job.id, "completed", None, CommandExit.OK)


def _members(standing: Standing) -> dict[str, str | None]:
    return {"job_id": standing.job_id, "state": standing.state, "code": standing.code}


def _line(standing: Standing) -> Text:
    return Text("  ").join(
        [Text(spelling.short(standing.job_id)), state_text(standing.state), Text(standing.code or "-")]
    )
