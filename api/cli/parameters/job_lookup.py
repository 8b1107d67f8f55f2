"""Find jobs and workers by what users type: an id, or a unique prefix of a job id with or without `job-`.

Runs in: any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from killable.api.cli.display.exit_codes import CommandExit
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client, Event, JobHandle

PREFIX = "job-"
_FULL = re.compile(r"job-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORKER = re.compile(r"(?:.+\.)?w-[0-9]+")
_SHOWN_MAX = 5
UNKNOWN = ("unknown_job", "unknown_worker")
"""Codes of `find_job` for a name that no job has: the second where it looks like that of a worker."""


class Ambiguous(KillableError):
    """A prefix of several ids. Fact: `matches`."""

    code = "ambiguous"
    exit_code = CommandExit.USAGE


def find_job(client: Client, name: str) -> JobHandle:
    """Return the one job of that id or prefix. Raise Refused (UNKNOWN), or Ambiguous."""
    if _FULL.fullmatch(name):
        return client.job(name)
    ids = (record["job_id"] for record in client.jobs())
    matches = matching(name, ids)
    if not matches:
        if _WORKER.fullmatch(name):
            raise Refused(f"there is no worker process {name}", code="unknown_worker", worker_id=name)
        raise Refused(f"there is no job {name}", code="unknown_job", job_id=name)
    return client.job(_only(name, matches))


def find_worker(client: Client, name: str) -> dict[str, Any] | None:
    """Return the worker of that id, or None.

    No prefixes: worker ids are numbered, so the id of a worker that has ended may be a prefix of another.
    """
    return next((worker for worker in client.workers() if worker["worker_id"] == name), None)


def events_so_far(job: JobHandle, record: Mapping[str, Any], *, last: int | None = None) -> Iterator[Event]:
    """Yield the events that the job had when this record was made; with `last`, only that many."""
    final = int(record["events"]) - 1
    first = 0 if last is None else max(0, final + 1 - last)
    if first > final:
        return
    for event in job.events(after=first - 1):
        yield event
        if event.id >= final:
            return


def matching(name: str, ids: Iterable[str]) -> list[str]:
    """Return the ids that begin with a name, in their order; none for an empty name."""
    digits = name.removeprefix(PREFIX)
    if not digits:
        return []
    return [id for id in ids if id == name or id.removeprefix(PREFIX).startswith(digits)]


def _only(name: str, matches: list[str]) -> str:
    if len(matches) > 1:
        shown = ", ".join(matches[:_SHOWN_MAX]) + (", ..." if len(matches) > _SHOWN_MAX else "")
        raise Ambiguous(f"{name} is ambiguous, it matches {len(matches)} ids: {shown}", matches=matches)
    return matches[0]
