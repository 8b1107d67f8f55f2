"""Which limits are in force for a type, and for one job of it.

Runs in: supervisor. Pure. Defaults ← `[limits]` ← the decorator ← `[jobs.NAME.limits]` ← the submission; the lower
of both caps holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.supervisor.job import Limits
from killable.supervisor.settings import JobSettings, Settings
from killable.workers.errors import Refused


def caps_of_type(settings: Settings, name: str) -> dict[str, float]:
    """Return the caps of a job type: its own and the server's, the lower one where both are set."""
    caps = dict(settings.caps)
    for limit, cap in settings.jobs.get(name, JobSettings()).caps.items():
        caps[limit] = min(cap, caps.get(limit, cap))
    return caps


def limits_of_type(settings: Settings, name: str, declared: Mapping[str, Any]) -> Limits:
    """Return a type's default limits; a default above its cap is the cap."""
    limits = settings.limits.over(dict(declared)).over(dict(settings.jobs.get(name, JobSettings()).limits))
    lowered: dict[str, Any] = {}
    for limit, cap in caps_of_type(settings, name).items():
        value = getattr(limits, limit)
        if value is None or value > cap:
            lowered[limit] = type(value)(cap) if value is not None else cap
    return limits.over(lowered)


def sources_of_type(settings: Settings, name: str, declared: Mapping[str, Any]) -> dict[str, str]:
    """Return who set each of a type's default limits: `decorator`, or the key of `killable.toml` that did or would."""
    job = settings.jobs.get(name, JobSettings())
    asked = settings.limits.over(dict(declared)).over(dict(job.limits))
    sources: dict[str, str] = {}
    for limit, value in limits_of_type(settings, name, declared).as_json().items():
        if value != getattr(asked, limit):
            sources[limit] = f"caps.{limit}" if value == settings.caps.get(limit) else f"jobs.{name}.caps.{limit}"
        elif limit in job.limits:
            sources[limit] = f"jobs.{name}.limits.{limit}"
        else:
            sources[limit] = "decorator" if limit in declared else f"limits.{limit}"
    return sources


def limits_of_job(defaults: Limits, caps: Mapping[str, float], asked: Mapping[str, Any]) -> Limits:
    """Return one job's limits. Raise Refused: limit_over_cap."""
    for limit, cap in caps.items():
        if limit in asked and (asked[limit] is None or asked[limit] > cap):
            wanted = f"a job without {limit}" if asked[limit] is None else f"{limit} of {asked[limit]:.15g}"
            raise Refused(
                f"{wanted} is over the cap of {cap:.15g}, which only the operator can raise",
                code="limit_over_cap",
                limit=limit,
                cap=cap,
                asked=asked[limit],
            )
    return defaults.over(dict(asked)) if asked else defaults
