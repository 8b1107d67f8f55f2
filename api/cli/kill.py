"""`killable kill`: end jobs, wait until they are dead, say how each one died.

Runs in: any machine.

First every job is told to stop, then each one's end is waited for: the server runs all escalations in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from killable.api.cli import exits, render
from killable.api.cli.arguments import tag_filter
from killable.api.cli.names import find_job
from killable.api.cli.options import Json, Reason, Url, open_client, seconds
from killable.api.client import Client, Ending, Job
from killable.api.transport import DEFAULT_URL
from killable.workers.errors import Refused


@dataclass(frozen=True, slots=True)
class _Kill:
    """What became of one name: an ending, or nothing because nobody has it."""

    name: str
    ending: Ending | None = None

    @property
    def exit_code(self) -> int:
        if self.ending is None:
            return exits.Exit.UNKNOWN
        return exits.Exit.FAILED if self.ending.had_ended else exits.Exit.OK


def kill(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="Ids, or unique prefixes of them.", show_default=False),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", parser=seconds, metavar="SECONDS", help="Shorten the grace: 2s. Never lengthens it."),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="No grace: SIGKILL at once.")] = False,
    reason: Reason = "",
    type: Annotated[str | None, typer.Option("--type", help="All active jobs of this type.")] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="KEY=VALUE", help="All active jobs with this tag.")
    ] = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="All active jobs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be killed.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """End jobs and everything that they have started; wait until they are dead.

    Exit code: 0 dead, 1 had ended already, 4 unknown.
    """
    by_filter = all_jobs or type is not None or tag is not None
    if by_filter == bool(names):
        raise typer.BadParameter("name jobs, or choose them by --type, --tag or --all; not both", param_hint="JOB")
    if now and grace is not None:
        raise typer.BadParameter("--now is --grace 0; give one of them", param_hint="--now")
    grace_s = 0.0 if now else grace
    with exits.reporting(as_json), open_client(url) as client:
        if by_filter:
            found = [
                (r["job_id"], client.job(r["job_id"]))
                for r in client.jobs(state="active", type=type, tag=tag_filter(tag))
            ]
            jobs: list[tuple[str, Job | None]] = list(found)
        else:
            jobs = [(name, _find(client, name)) for name in dict.fromkeys(names or [])]
        if dry_run:
            raise typer.Exit(_print_plan(jobs, as_json))
        try:
            kills = []
            for done in _kill_all(jobs, grace_s, reason):
                kills.append(done)
                if not as_json:
                    _print_line(done)
        except KeyboardInterrupt:
            exits.stderr_console().print("interrupted; what was told to stop goes on stopping: killable ps")
            raise
        if as_json:
            exits.print_json({"killed": [_members(done) for done in kills]})
        elif not jobs:
            exits.stderr_console().print("nothing to kill: no active job fits")
        raise typer.Exit(max((done.exit_code for done in kills), default=exits.Exit.OK))


def _find(client: Client, name: str) -> Job | None:
    try:
        return find_job(client, name)
    except Refused as refusal:
        if refusal.code != "unknown_job":
            raise
        return None


def _kill_all(jobs: list[tuple[str, Job | None]], grace_s: float | None, reason: str) -> Iterator[_Kill]:
    """Tell all to stop, then yield each one's end in turn."""
    told = len(jobs) == 1 or [_cancel(job, grace_s, reason, wait_s=0) for _, job in jobs]
    for index, (name, job) in enumerate(jobs):
        ending = told[index] if isinstance(told, list) else None
        if job is not None and (ending is None or not ending.is_over):
            ending = _cancel(job, grace_s, reason, wait_s=None)
        yield _Kill(name if job is None or ending is None else job.id, ending)


def _cancel(job: Job | None, grace_s: float | None, reason: str, wait_s: float | None) -> Ending | None:
    if job is None:
        return None
    try:
        return job.cancel(grace_s, reason, wait_s=wait_s)
    except Refused as refusal:
        if refusal.code != "unknown_job":
            raise
        return None


def _print_line(done: _Kill) -> None:
    if done.ending is None:
        exits.stderr_console().print(Text.assemble(f"{done.name}  ", ("unknown", "red"), "  there is no such job"))
        return
    name = render.short(done.ending.job_id)
    how = render.ended_by(
        {"state": done.ending.state, "certificate": done.ending.certificate, "error": done.ending.error}
    )
    death = "had ended already" if done.ending.had_ended else render.death(done.ending.certificate)
    typer.echo(f"{name}  {how}  {death}")


def _members(done: _Kill) -> dict[str, Any]:
    if done.ending is None:
        return {"job_id": done.name, "state": None, "error": {"code": "unknown_job"}}
    ending = done.ending
    return {
        "job_id": ending.job_id,
        "state": ending.state,
        "had_ended": ending.had_ended,
        "error": ending.error,
        "certificate": ending.certificate,
    }


def _print_plan(jobs: list[tuple[str, Job | None]], as_json: bool) -> int:
    """List what would be killed, and what would not; return the exit code that killing would have now."""
    plan: list[dict[str, Any]] = []
    code: int = exits.Exit.OK
    for name, job in jobs:
        record = _record(job)
        if record is None:
            code = exits.Exit.UNKNOWN
            line = f"{name}  unknown"
        elif record["state"] in ("queued", "running", "stopping"):
            plan.append(record)
            line = f"{render.short(record['job_id'])}  {record['type']}  {record['state']}  would be cancelled"
        else:
            code = max(code, exits.Exit.FAILED)
            line = f"{render.short(record['job_id'])}  {record['type']}  {record['state']}  had ended already"
        if not as_json:
            typer.echo(line)
    if as_json:
        exits.print_json({"would_kill": [record["job_id"] for record in plan]})
    elif not jobs:
        exits.stderr_console().print("nothing to kill: no active job fits")
    return code


def _record(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    try:
        return job.record()
    except Refused as refusal:
        if refusal.code != "unknown_job":
            raise
        return None
