"""Start the pools to find out which of them fail, which job types there are, and the limits in force for them.

Runs in: supervisor, for a moment: everything is started once and ended again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from killable.api.cli import interrupts
from killable.api.cli.server.listener import CannotServe
from killable.supervisor.configuration.config import Config, ConfigFault
from killable.supervisor.models import JobType, StartRefused
from killable.supervisor.pools.start_failures import error_line
from killable.supervisor.records import PoolRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class PoolSurvey:
    """Every pool, as of when its first worker was warm or its start had failed."""

    pools: tuple[PoolRecord, ...]
    types: tuple[JobType, ...]

    @property
    def broken(self) -> tuple[PoolRecord, ...]:
        return tuple(pool for pool in self.pools if pool.state == "broken")


def survey(config: Config) -> PoolSurvey:
    """Start every pool with one worker, wait until it is warm or broken, and end it. Raise CannotServe."""
    # The faults of the pools are in the survey, and need not be logged.
    logging.getLogger("killable").addHandler(logging.NullHandler())
    try:
        found = interrupts.run(_all(config.settings))
    except OSError as error:
        raise CannotServe(f"no pool can be started: {error}; `killable doctor` checks this machine") from error
    types = sorted((job_type for _, types in found for job_type in types), key=lambda job_type: job_type.name)
    return PoolSurvey(tuple(pool for pool, _ in found), tuple(types))


async def _all(settings: Settings) -> list[tuple[PoolRecord, list[JobType]]]:
    # A supervisor for each pool: a refused pool must not hide the faults of the others.
    return await asyncio.gather(*(_one(settings, spec) for spec in settings.pools))


async def _one(settings: Settings, spec: PoolSpec) -> tuple[PoolRecord, list[JobType]]:
    # Without the journal: a running server may be using it, and a check must not touch its jobs.
    supervisor = Supervisor(replace(settings, pools=(spec._replace(workers=1, spares=1),), journal=""))
    try:
        with contextlib.suppress(StartRefused):  # its traceback is the pool's detail
            await supervisor.start()
            await supervisor.until_warm()
        (pool,) = await supervisor.pools()
        return pool._replace(workers_max=spec.workers, spares=spec.spares), list(await supervisor.job_types())
    finally:
        await supervisor.close(grace_s=0)


def faults_of(config: Config, found: PoolSurvey) -> Iterator[ConfigFault]:
    """Yield the faults of the pools, and the settings for unknown job types."""
    for pool in found.broken:
        source = config.sources.get(f"pools.{pool.name}.module", "")
        why = error_line(pool.detail)
        yield ConfigFault(f"pools.{pool.name}", "expected modules that import and workers that start", why, source)
    yield from without_types(config, found.pools, {job_type.pool for job_type in found.types})
    pools: dict[str, str] = {}
    for job_type in found.types:
        other = pools.setdefault(job_type.name, job_type.pool)
        if other != job_type.pool:
            there = f"a job type {job_type.name}, which pool {other} has, too"
            yield ConfigFault(f"pools.{job_type.pool}", "expected job type names that no other pool has", there)
        is_command = f"commands.{job_type.name}.argv" in config.sources  # the configuration has this fault already
        if not job_type.available and not config.builtin and not is_command:
            yield ConfigFault(job_type.name, "expected to be available", job_type.unavailable_reason)
    if not found.broken:  # the job types of a broken pool are not known
        yield from unknown_types(config, set(pools))


def without_types(config: Config, pools: Iterable[PoolRecord], with_types: set[str]) -> Iterator[ConfigFault]:
    """Yield a fault for each pool that starts but has no job type: most likely @job was forgotten."""
    modules = {spec.name: ", ".join(spec.modules) for spec in config.settings.pools}
    for pool in pools:
        # One without workers no node has; one of commands has no module, and its commands have faults of their own.
        if pool.state != "broken" and pool.workers_max and pool.name not in with_types and modules[pool.name]:
            key = f"pools.{pool.name}.module"
            found = f"none in {modules[pool.name]}"
            yield ConfigFault(key, "expected at least one function with @job", found, config.sources.get(key, ""))


def unknown_types(config: Config, known: set[str]) -> Iterator[ConfigFault]:
    """Yield a fault for each `[jobs.NAME]` without a job type of that name."""
    for name in sorted(set(config.settings.jobs) - known):
        sources = (source for key, source in config.sources.items() if key.startswith(f"jobs.{name}."))
        there_are = f"there is no such job type (there are {', '.join(sorted(known)) or 'none'})"
        yield ConfigFault(f"jobs.{name}", there_are, "", next(sources, ""))
