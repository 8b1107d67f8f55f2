"""The job types that nodes report: all nodes that have a pool must have the same ones.

Runs in: supervisor, on the head.
"""

from __future__ import annotations

from typing import Any

from killable.supervisor.models import JobType
from killable.supervisor.pools.job_types import JobTypes
from killable.workers.protocol.messages import dump_json, load_json


class ReportedTypes:
    def __init__(self, types: JobTypes) -> None:
        """`types` are those of the head: it takes over what the first node of a pool reports."""
        self._types = types
        self._reported: dict[str, bytes] = {}
        """By pool: the job types of the first node that has it."""

    def take(self, pools: list[str], types: list[dict[str, Any]]) -> str:
        """Take the job types of a node that has these pools. Return why it cannot be used; empty: it can."""
        reported = {name: [each for each in types if each["pool"] == name] for name in pools}
        encoded = {name: dump_json(each) for name, each in reported.items()}
        owners = {job_type.name: job_type.pool for job_type in self._types.all()}
        for each in types:
            if owners.get(each["name"], each["pool"]) != each["pool"]:
                return f"its pool {each['pool']} has the job type {each['name']}, as pool {owners[each['name']]} has"
        differing = [name for name in pools if self._reported.get(name, encoded[name]) != encoded[name]]
        if differing:
            names = ", ".join(_difference(self._reported[name], encoded[name]) for name in differing)
            return (
                f"its job types differ from those of the other nodes: {names}; install the same release of the modules"
                " on each machine"
            )
        self._reported |= {name: encoded[name] for name in pools if reported[name]}
        self._types.adopt(_type_of(members) for members in load_json(dump_json(types)))
        return ""


def _type_of(members: dict[str, Any]) -> JobType:
    texts: dict[str, Any] = {
        name: tuple(members[name]) for name in ("operations", "retry_on", "retry_codes") if name in members
    }
    return JobType(**members | texts)


def _difference(known: bytes, reported: bytes) -> str:
    """Return the names of the job types that are not the same."""
    ours, theirs = ({each["name"]: each for each in load_json(types)} for types in (known, reported))
    return ", ".join(sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)))
