"""Which limits are in force for a type, and for one job of it.

Runs in: supervisor. Pure. Defaults ← `[limits]` ← the decorator ← `[jobs.NAME.limits]` ← the submission, which may
not go over the caps. A cap that nobody has set follows from the limits of the type; one that is set lowers those too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from killable.workers.authoring.limits_and_caps import Limits, cap_of, flat, over, value_of
from killable.workers.authoring.units import size
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.settings import JobSettings, Settings


def caps_of_type(settings: Settings, name: str, declared: Mapping[str, Any]) -> dict[str, float]:
    """Return the caps of a job type whose decorator declares these limits.

    A cap is the one that is configured, for the type or for all; the lower one where both are. Else it follows from the
    type's own limit (`cap_of`).
    """
    removed = dict(settings.caps) | dict(_written(settings, name).caps)
    configured = removed | _configured_caps(settings, name)
    caps: dict[str, float] = {}
    for limit, value in limits_of_type(settings, name, declared).items():
        cap = configured[limit] if limit in configured else cap_of(limit, value)
        if cap is not None:
            caps[limit] = cap
    return caps


def limits_of_type(settings: Settings, name: str, declared: Mapping[str, Any]) -> Limits:
    """Return a type's default limits; a default above a cap that is configured is that cap."""
    limits = over(over(settings.limits, dict(declared)), dict(_written(settings, name).limits))
    lowered: dict[str, Any] = {}
    for limit, cap in _configured_caps(settings, name).items():
        value = value_of(limits, limit)
        if is_over(value, cap):
            lowered[limit] = _lowered(value, cap)
    return over(limits, lowered)


def _written(settings: Settings, name: str) -> JobSettings:
    """Return what the file says of a type."""
    from killable.supervisor.settings import JobSettings  # here: `killable run` needs none, and its time is short

    return settings.jobs.get(name, JobSettings())


def _configured_caps(settings: Settings, name: str) -> dict[str, float]:
    """Return the caps that `[caps]` and `[jobs.NAME.caps]` set for a type, without those that they remove."""
    caps = {limit: cap for limit, cap in settings.caps.items() if cap is not None}
    for limit, cap in _written(settings, name).caps.items():
        if cap is not None:
            caps[limit] = min(cap, caps.get(limit, cap))
    return caps


def is_over(value: Any, cap: float) -> bool:
    """Return whether a limit, or that of any operation, is over its cap; None (no limit) is over every cap."""
    if isinstance(value, Mapping):
        return any(is_over(each, cap) for each in value.values())
    return value is None or bool(value > cap)


def _lowered(value: Any, cap: float) -> Any:
    if isinstance(value, Mapping):
        return {path: _lowered(each, cap) if is_over(each, cap) else each for path, each in value.items()}
    return cap if value is None else type(value)(cap)


def _spelled(name: str, value: float) -> str:
    """Return a value with its unit, as exact as the caller gave it."""
    return f"{value} bytes ({size(int(value))})" if name.endswith("_bytes") else f"{value:.15g}"


def sources_of_type(settings: Settings, name: str, declared: Mapping[str, Any]) -> dict[str, str]:
    """Return what set each default limit of a type: `decorator`, or the key of `killable.toml` that did or would."""
    job = _written(settings, name)
    asked = over(over(settings.limits, dict(declared)), dict(job.limits))
    sources: dict[str, str] = {}
    for limit, value in limits_of_type(settings, name, declared).items():
        if value != value_of(asked, limit):
            lowest = _configured_caps(settings, name)[limit] == settings.caps.get(limit)
            sources[limit] = f"caps.{limit}" if lowest else f"jobs.{name}.caps.{limit}"
        elif limit in job.limits:
            sources[limit] = f"jobs.{name}.limits.{limit}"
        else:
            sources[limit] = "decorator" if limit in declared else f"limits.{limit}"
    return sources


def limits_of_job(
    defaults: Limits, caps: Mapping[str, float], asked: Mapping[str, Any], within_s: float | None = None
) -> Limits:
    """Return one job's limits, with a `total_s` of at most `within_s`. Raise Refused: limit_over_cap."""
    for limit, whole_name, value in flat(asked):
        cap = caps.get(limit)
        if cap is not None and is_over(value, cap):
            wanted = f"a job without {whole_name}" if value is None else f"{whole_name} of {_spelled(limit, value)}"
            raise Refused(
                f"{wanted} exceeds the cap of {_spelled(limit, cap)}, which only the operator can raise:"
                f" {limit} under [caps] or [jobs.NAME.limits] of killable.toml, or in @job",
                code="limit_over_cap",
                limit=whole_name,
                cap=cap,
                asked=value,
            )
    in_force = over(defaults, dict(asked)) if asked else defaults
    if within_s is None or (in_force["total_s"] is not None and in_force["total_s"] <= within_s):
        return in_force
    return over(in_force, {"total_s": within_s})


def limits_of_tenant(
    defaults: Limits, caps: Mapping[str, float], own: Mapping[str, float]
) -> tuple[Limits, dict[str, float]]:
    """Return a type's default limits and caps for a tenant with caps of its own: the lower cap applies."""
    lowered: dict[str, Any] = {}
    for limit, cap in own.items():
        value = value_of(defaults, limit)
        if is_over(value, cap):
            lowered[limit] = _lowered(value, cap)
    lower = {limit: min(cap, caps.get(limit, cap)) for limit, cap in own.items()}
    return over(defaults, lowered), {**caps, **lower}


def is_watched(limits: Limits) -> bool:
    """Return whether any limit of a job is one on resources, which are measured."""
    return needs_samples(limits) or limits["tmp_bytes"] is not None


def needs_samples(limits: Limits) -> bool:
    """Return whether its processes have to be measured."""
    measured = limits["memory_bytes"], limits["cpu_s"], limits["processes_max"], limits["threads_max"]
    return any(each is not None for each in measured)
