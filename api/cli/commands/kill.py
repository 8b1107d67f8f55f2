"""`killable kill`: cancel jobs, wait until they are dead, print how each one ended.

Runs in: any machine.

All jobs are cancelled first (with a filter: in one request, so that no freed worker starts another matching job), then
the command waits for each of them. The server runs all escalations in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.certificate import death_line
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_input import tag_filter
from killable.api.cli.parameters.job_lookup import UNKNOWN, find_job, find_worker
from killable.api.client.events import Ending
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by
from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client, JobHandle

NOTHING = "nothing to kill: no active job matches"


@dataclass(frozen=True, slots=True)
class _Order:
    """The grace and the reason of a kill."""

    grace_s: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Filter:
    """Selects active jobs by type, tag and node; all of them if none is given."""

    type: str | None
    tag: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class _Target:
    """A name from the command line, with its job or its worker; with neither if it is unknown."""

    name: str
    job: JobHandle | None = None
    worker: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Kill:
    """The outcome for one name: the ending of a job, a worker, or neither if the name is unknown."""

    name: str
    ending: Ending | None = None
    worker: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        if self.worker is not None:
            return CommandExit.OK
        if self.ending is None:
            return CommandExit.UNKNOWN
        return CommandExit.FAILED if self.ending.had_ended else CommandExit.OK


def kill(
    names: tuple[str, ...],
    grace: float | None,
    now: bool,
    reason: str,
    type: str | None,
    tag: str | None,
    node: str | None,
    all_jobs: bool,
    dry_run: bool,
    as_json: bool,
    url: str,
) -> None:
    by_filter = all_jobs or type is not None or tag is not None or node is not None
    if by_filter == bool(names):
        what = "give ids or a filter, not both" if names else "give ids or a filter"
        raise click.BadParameter(f"{what} (--type, --tag, --node or --all)", param_hint="JOB")
    if now and grace is not None:
        raise click.BadParameter("--now is the same as --grace 0; give only one of them", param_hint="--now")
    order = _Order(0.0 if now else grace, reason)
    with errors.reporting(as_json), open_client(url) as client:
        chosen = _Filter(type, tag_filter(tag), node) if by_filter else None
        if dry_run:
            targets = _matching(client, chosen) if chosen else _named(client, names)
            if chosen and not targets:
                _check_type(client, chosen)
            raise click.exceptions.Exit(_print_plan(targets, as_json))
        if chosen:
            raise click.exceptions.Exit(_do_kill(client, _kill_matching(client, chosen, order), chosen, order, as_json))
        named = _named(client, names)
        raise click.exceptions.Exit(_do_kill(client, _kill_all(client, named, order), None, order, as_json))


def _do_kill(client: Client, killing: Iterator[_Kill], chosen: _Filter | None, order: _Order, as_json: bool) -> int:
    """Kill and print; return the exit code. Raise Refused for a filter by an unknown job type."""
    kills = _await_kills(killing, as_json)
    if chosen and not kills:
        _check_type(client, chosen)
    if as_json:
        console.print_json({"killed": [_members(done) for done in kills]})
    elif not kills:
        console.stderr_console().print(NOTHING)
    else:
        _note_longer_grace(kills, order)
    return max((done.exit_code for done in kills), default=CommandExit.OK)


def _check_type(client: Client, chosen: _Filter) -> None:
    """Raise Refused for an unknown job type: with a typo, no job was killed."""
    type = chosen.type
    if type is None:
        return
    types = [str(each["name"]) for each in client.types()]
    if type not in types:
        raise Refused(f"there is no job type {type!r} ({did_you_mean(type, types)})", code="unknown_job_type")


def _note_longer_grace(kills: Sequence[_Kill], order: _Order) -> None:
    """Print a note if the grace in force, the job's own or an earlier kill's, was shorter than that of this kill."""
    certificates = [done.ending.certificate or {} for done in kills if done.ending is not None]
    in_force = [grace for each in certificates if (grace := each.get("grace_s")) is not None]
    if order.grace_s is not None and in_force and min(in_force) < order.grace_s:
        words = f"a kill can only shorten the grace: {spelling.setting(min(in_force))} was in force and applied"
        console.stderr_console().print(Text(words, "yellow"))


def _await_kills(killing: Iterator[_Kill], as_json: bool) -> list[_Kill]:
    """Wait for all; print each as it ends, unless the output is JSON."""
    kills = []
    try:
        for done in killing:
            kills.append(done)
            if not as_json:
                _print_line(done)
    except KeyboardInterrupt:
        console.stderr_console().print("interrupted; the jobs are still being stopped (`killable ps` lists them)")
        raise
    return kills


def _named(client: Client, names: Sequence[str]) -> list[_Target]:
    """Look up each name as a job, then as a worker."""
    targets = []
    for name in dict.fromkeys(names):
        try:
            targets.append(_Target(name, job=find_job(client, name)))
        except Refused as refusal:
            if refusal.code not in UNKNOWN:
                raise
            targets.append(_Target(name, worker=find_worker(client, name)))
    return targets


def _matching(client: Client, chosen: _Filter) -> list[_Target]:
    answer = client.cancel_matching(type=chosen.type, tag=chosen.tag, node=chosen.node, state="active", dry_run=True)
    return [_Target(each["job_id"], job=client.job(each["job_id"])) for each in answer["jobs"]]


def _kill_matching(client: Client, chosen: _Filter, order: _Order) -> Iterator[_Kill]:
    """Cancel all matching jobs in one request, then wait for each in turn and yield its end."""
    answer = client.cancel_matching(
        type=chosen.type, tag=chosen.tag, node=chosen.node, state="active", reason=order.reason, grace_s=order.grace_s
    )
    for each in answer["jobs"]:
        job = client.job(each["job_id"])
        ending = _cancel(job, order, wait_s=None)
        yield _Kill(job.id, ending or _forgotten(job, each["status"]))


def _forgotten(job: JobHandle, told: str) -> Ending:
    """Return the ending of a job that the server no longer keeps; `told` is its status in the first answer."""
    return Ending(job.id, "cancelled" if told == "cancelled" else "ended", None, had_ended=told == "already_ended")


def _kill_all(client: Client, targets: list[_Target], order: _Order) -> Iterator[_Kill]:
    """Cancel all jobs, then wait for each in turn and yield its end."""
    told = [_cancel(target.job, order, wait_s=0) for target in targets]
    for target, ending in zip(targets, told, strict=True):
        if target.worker is not None:
            yield _kill_worker(client, target.worker, order)
            continue
        if target.job is not None and ending is not None and not ending.is_over:
            ending = _cancel(target.job, order, wait_s=None) or _forgotten(target.job, ending.state)
        yield _Kill(target.name if target.job is None or ending is None else target.job.id, ending)


def _kill_worker(client: Client, worker: dict[str, Any], order: _Order) -> _Kill:
    worker_id = str(worker["worker_id"])
    try:
        return _Kill(worker_id, worker=client.kill_worker(worker_id, reason=order.reason))
    except Refused as refusal:
        if refusal.code != "unknown_worker":
            raise
        return _Kill(worker_id)


def _cancel(job: JobHandle | None, order: _Order, wait_s: float | None) -> Ending | None:
    if job is None:
        return None
    try:
        return job.cancel(order.grace_s, order.reason, wait_s=wait_s)
    except Refused as refusal:
        if refusal.code != "unknown_job":
            raise
        return None


def _print_line(done: _Kill) -> None:
    if done.worker is not None:
        pid, job_id = done.worker.get("pid"), done.worker.get("job_id")
        whose = f", its job {spelling.short(job_id)} cancelled" if job_id else ""
        end = "still stopping" if done.worker.get("state") == "stopping" and job_id else "killed"
        console.write(f"{done.name}  {end}  pid {pid}{whose}\n")
        return
    if done.ending is None:
        console.stderr_console().print(
            Text.assemble(f"{done.name}  ", ("unknown", "red"), "  there is no such job or worker")
        )
        return
    name = spelling.short(done.ending.job_id)
    how = ended_by({"state": done.ending.state, "certificate": done.ending.certificate, "error": done.ending.error})
    death = "already ended" if done.ending.had_ended else death_line(done.ending.certificate)
    console.write(f"{name}  {how}  {death}\n")


def _members(done: _Kill) -> dict[str, Any]:
    if done.worker is not None:
        return {"worker_id": done.name, "worker": done.worker}
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


def _print_plan(targets: list[_Target], as_json: bool) -> int:
    """List what would be killed and what would not; return the exit code of the real kill."""
    plan: list[str] = []
    code: int = CommandExit.OK
    for target in targets:
        record = _record(target.job)
        if target.worker is not None:
            plan.append(target.worker["worker_id"])
            line = (
                f"{target.worker['worker_id']}  {target.worker['state']}  pid {target.worker['pid']}  would be killed"
            )
        elif record is None:
            code = CommandExit.UNKNOWN
            line = f"{target.name}  unknown"
        elif record["state"] in ("queued", "running", "stopping"):
            plan.append(record["job_id"])
            line = f"{spelling.short(record['job_id'])}  {record['type']}  {record['state']}  would be cancelled"
        else:
            code = max(code, CommandExit.FAILED)
            line = f"{spelling.short(record['job_id'])}  {record['type']}  {record['state']}  already ended"
        if not as_json:
            console.write(line + "\n")
    if as_json:
        console.print_json({"would_kill": plan})
    elif not targets:
        console.stderr_console().print(NOTHING)
    return code


def _record(job: JobHandle | None) -> dict[str, Any] | None:
    if job is None:
        return None
    try:
        return job.record()
    except Refused as refusal:
        if refusal.code != "unknown_job":
            raise
        return None
