"""The job types that the zygotes reported, with the limits in force for each.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from killable.supervisor.jobs import effective_limits
from killable.supervisor.models import JobType, StartRefused
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.errors import Refused


class DuplicateType(StartRefused):
    """Two pools register the same name, so that a request would not identify the job type."""


class JobTypes:
    """Job types by name; each belongs to one pool."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._types: dict[str, JobType] = {}
        self._reported: dict[str, Sequence[Mapping[str, Any]]] = {}

    def with_new(self, reported: Mapping[str, Sequence[Mapping[str, Any]]]) -> JobTypes:
        """Return the types as they are when all of these pools have reported anew at once. Raise DuplicateType."""
        types = JobTypes(self._settings)
        known = {**self._reported, **reported}
        for pool in self._settings.pools:
            if pool.name in known:
                types.replace(pool, known[pool.name])
        return types

    def replace(self, pool: PoolSpec, reported: Sequence[Mapping[str, Any]]) -> None:
        """Replace a pool's types by those that its new zygote reported. Raise DuplicateType."""
        for name in [name for name, job_type in self._types.items() if job_type.pool == pool.name]:
            del self._types[name]
        self._reported[pool.name] = reported
        for each in reported:
            name = each["name"]
            if name in self._types:
                raise DuplicateType(
                    f"two pools have a job type {name!r}: {self._types[name].pool} and {pool.name}", name=name
                )
            self._check_operations(pool, name, each["operations"])
            self._check_model(pool, each)
            self._types[name] = self._job_type(pool, each)

    def _check_operations(self, pool: PoolSpec, name: str, operations: Sequence[str]) -> None:
        """Raise DuplicateType when the type shares a name or an operation with another one."""
        for other in self._types.values():
            shared = {other.name, *other.operations}.intersection((name, *operations))
            if shared:
                raise DuplicateType(
                    f"two job types answer to {min(shared)!r}: {other.name!r} of pool {other.pool} and {name!r} of pool"
                    f" {pool.name}; an operation belongs to one of them",
                    name=min(shared),
                )

    def _check_model(self, pool: PoolSpec, reported: Mapping[str, Any]) -> None:
        """Raise DuplicateType when the type answers the same OpenAI requests as another one."""
        asked = reported.get("openai", ""), reported.get("openai_model", "")
        for other in self._types.values():
            if asked[0] and asked == (other.openai, other.openai_model):
                raise DuplicateType(
                    f"two job types answer openai={asked[0]!r} as {asked[1]!r}: {other.name!r} of pool {other.pool} and"
                    f" {reported['name']!r} of pool {pool.name}; give one another openai_model",
                    name=reported["name"],
                )

    def get(self, name: str, broken_pools: Iterable[str]) -> JobType:
        """Return a type. Raise Refused: unknown_job_type, which names the known types and the broken pools."""
        found = self._types.get(name)
        if found is not None:
            return found
        broken = list(broken_pools)
        hint = f"; broken pools: {', '.join(broken)}" if broken else ""
        known = ", ".join(sorted(self._types)) or "none"
        raise Refused(
            f"there is no job type of that name; there are: {known}{hint}", code="unknown_job_type", broken_pools=broken
        )

    def adopt(self, job_types: Iterable[JobType]) -> None:
        """Take types as another supervisor with these settings has them."""
        self._types |= {job_type.name: job_type for job_type in job_types}

    def all(self) -> list[JobType]:
        return sorted(self._types.values(), key=lambda job_type: job_type.name)

    def _job_type(self, pool: PoolSpec, reported: Mapping[str, Any]) -> JobType:
        name = reported["name"]
        return JobType(
            name=name,
            description=reported["description"],
            input_schema=reported["input_schema"],
            pool=pool.name,
            codec=pool.codec,
            limits=effective_limits.limits_of_type(self._settings, name, reported["limits"]),
            caps=effective_limits.caps_of_type(self._settings, name, reported["limits"]),
            streams=reported["streams"],
            on_loss=reported.get("on_loss", "fail"),
            retry_on=tuple(reported.get("retry_on", ())),
            retry_codes=tuple(reported.get("retry_codes", ())),
            available=reported["available"],
            unavailable_reason=reported["unavailable_reason"] or "",
            operations=tuple(reported["operations"]),
            openai=reported.get("openai", ""),
            openai_model=reported.get("openai_model", ""),
            limit_sources=effective_limits.sources_of_type(self._settings, name, reported["limits"]),
        )
