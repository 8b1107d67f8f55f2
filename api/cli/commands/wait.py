"""`killable wait`: wait until jobs have ended, and say how each of them did.

Runs in: any machine.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.text import Text

from killable.api.cli.display import console, errors, render
from killable.api.cli.display.exit_codes import CommandExit, exit_code
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.options import Json, Url, open_client, seconds
from killable.api.client.addresses import DEFAULT_URL
from killable.workers.errors import CODES, JobError

if TYPE_CHECKING:
    from killable.api.client.client import Client, JobHandle


class Standing(NamedTuple):
    """How a job ended, or where it stood when the wait was over. `code` is that of its error."""

    job_id: str
    state: str
    code: str | None
    exits_with: int


def wait(
    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB", help="Job ids or unique prefixes of them.", show_default=False,
            autocompletion=completion.jobs,
        ),
    ],
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", parser=seconds, metavar="SECONDS", show_default=False,
            help="Wait at most this long for all of them: 30s, 5m. Default: without a limit.",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:  # fmt: skip
    """Wait until jobs have ended, and print the id, state and error code of each. Ctrl-C leaves them running.

    The lines come in the order of the arguments. Exit code: 0 if all jobs have
    completed, 75 if one had not ended by the timeout, 4 for an unknown id; else
    that of the first job that did not complete: 1 failed, 3 cancelled, 124 timed
    out.
    """
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
            console.stderr_console().print(f"{render.counted(going_on, 'job')} {verb}")
    if going_on:
        raise typer.Exit(CommandExit.NOT_NOW)
    raise typer.Exit(next((each.exits_with for each in standings if each.exits_with), CommandExit.OK))


def _find(client: Client, names: list[str]) -> list[JobHandle]:
    """Return the jobs of these names, each once. Raise Refused `unknown_job` before there is anything to wait for."""
    from killable.api.cli.parameters.job_lookup import find_job

    found = {job.id: job for job in (find_job(client, name) for name in names)}
    for job in found.values():
        job.record()
    return list(found.values())


def _wait_for(job: JobHandle, deadline: float) -> Standing:
    from killable.api.client.outcomes import NotEnded

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
        [Text(render.short(standing.job_id)), render.state(standing.state), Text(standing.code or "-")]
    )
