"""What becomes of the type of a job when the types are loaded anew, and how they differ.

Runs in: supervisor. Pure.

    the type is there    the job is of it: its next attempt runs the new function, with the input that was accepted
    … in another pool    and it waits there, behind the others
    … is gone            a job that waits has failed (`spawn`); one that runs goes on, and has no other attempt
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from killable.supervisor.models import JobType
from killable.workers.named_tuples import NamedTuple


class Changes(NamedTuple):
    """Names of job types."""

    came: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]


def renewed(job_type: JobType, types: Sequence[JobType]) -> JobType:
    """Return the type as it is now; one that cannot start, if there is none of its name."""
    for each in types:
        if each.name == job_type.name:
            return each
    why = f"there is no job type {job_type.name} any more: the code was loaded anew, and is without it"
    return job_type._replace(available=False, unavailable_reason=why)


def changes(before: Iterable[JobType], after: Iterable[JobType]) -> Changes:
    old, new = ({each.name: each for each in types} for types in (before, after))
    return Changes(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )
