"""Every value in force with its source, and how a value is spelled.

Runs in: supervisor, before it starts; `killable config` and `check`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from killable.supervisor.configuration.config import Config
from killable.supervisor.configuration.schema import NO_LIMIT
from killable.supervisor.configuration.secret_settings import NOT_SHOWN, shown_variable
from killable.supervisor.models import JobType
from killable.workers.authoring.limits_and_caps import LIMITS, cap_of, flat, value_of
from killable.workers.commands.command_spec import CommandSpec

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in force."""

    section: str
    """As the file spells it; for the limits of a job type, the name of the type."""
    name: str
    value: Any
    """None: no such limit."""
    source: str

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def spelled(self) -> str:
        return spelled(self.name, self.value)


_POOL_KEYS = (
    "module", "workers", "spares", "jobs_per_worker_max", "start_method", "python", "nice", "affinity", "core_dumps",
    "user", "group", "environment",
)  # fmt: skip


def settings_in_force(config: Config) -> Iterator[Setting]:
    """Yield every value in the order of the file. A value that may be a secret is not shown."""
    for name, value in asdict(config.server).items():
        yield _setting(config, "server", name, value)
    for name, value in asdict(config.cluster).items():
        if name != "nodes":
            yield _setting(config, "cluster", name, value)
    yield from _selector(config, "cluster", config.cluster.nodes)
    for name, value in asdict(config.webhooks).items():
        yield _setting(config, "webhooks", name, value)
    for name, value in asdict(config.telemetry).items():
        yield _setting(config, "telemetry", name, value)
    for _, name, value in flat(config.settings.limits):
        yield _setting(config, "limits", name, value)
    for name in LIMITS:
        yield _cap(config, name)
    for pool in config.settings.pools:
        section = f"pools.{pool.name}"
        members = {"module": pool.modules} | pool._asdict()
        for name in _POOL_KEYS:
            found = _setting(config, section, name, members[name])
            cores = name == "workers" and found.source == DEFAULT
            yield replace(found, source="default (number of cores)") if cores else found
        yield from _selector(config, section, pool.nodes)
        for name, value in pool.env.items():
            yield _setting(config, f"{section}.env", name, shown_variable(name, value))
        for name, value in pool.sandbox._asdict().items():
            if value not in (True, None):
                yield _setting(config, f"{section}.sandbox", name, value)
    for command in (command for pool in config.settings.pools for command in pool.commands):
        yield from _command(config, command)
    for name, job in config.settings.jobs.items():
        for table, values in (("limits", job.limits), ("caps", job.caps)):
            for _, limit, value in flat(values):
                yield _setting(config, f"jobs.{name}.{table}", limit, value)
    for name, written in config.settings.tenants.items():
        for bound, value in written.items():
            if bound != "caps":
                yield _setting(config, f"tenants.{name}", bound, value)
        for limit, cap in written["caps"].items():
            yield _setting(config, f"tenants.{name}.caps", limit, cap)


def limits_in_force(config: Config, job_type: JobType) -> Iterator[Setting]:
    """Yield a job type's limits, each with its source: the decorator, the file, or the cap that lowered it."""
    for limit, name, value in flat(job_type.limits):
        said = job_type.limit_sources[limit]
        if said == "decorator":
            source = said
        elif is_inherited(said):
            source = config.sources.get(said, DEFAULT)
        elif said.startswith("jobs.") and ".limits." in said:
            source = config.sources.get(said, said)
        else:
            source = f"lowered to {said} ({config.sources.get(said, DEFAULT)})"
        yield Setting(job_type.name, name, value, source)


def is_inherited(source: str) -> bool:
    """Return whether a job type's limit comes from the limits of all types."""
    return source.startswith("limits.")


def spelled(name: str, value: Any) -> str:
    """Return a value as the file spells it, in the largest unit that is exact."""
    if value is None:
        return f'"{NO_LIMIT}"'
    if isinstance(value, bool):
        return json.dumps(value)
    if name.endswith(("_bytes", "_bytes_max")) or name == "keep_bytes":
        return _in_units(value, {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10})
    if isinstance(value, Mapping):
        return "{}"  # an empty one: `flat` yields the values of any other one by one
    if name.endswith("_per_s"):
        return _number(value)
    if name.endswith("_s") or name.startswith("operation_s."):
        return _in_units(value, {"h": 3600, "m": 60})
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(spelled('', item) for item in value)}]"
    if value == NOT_SHOWN:
        return NOT_SHOWN
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value}"


def _setting(config: Config, section: str, name: str, value: Any) -> Setting:
    written = config.sources.get(f"{section}.{name}")
    return Setting(section, name, list(value) if isinstance(value, tuple) else value, written or DEFAULT)


def _command(config: Config, command: CommandSpec) -> Iterator[Setting]:
    section = f"commands.{command.name}"
    for name, value in command._asdict().items():
        if name not in ("name", "parameters", "outputs", "env"):
            yield _setting(config, section, name, value)
    for name, value in command.outputs.items():
        yield _setting(config, f"{section}.outputs", name, value)
    for name, value in command.env.items():
        yield _setting(config, f"{section}.env", name, shown_variable(name, value))
    for parameter, members in command.parameters.items():
        for _, name, value in flat(members):
            yield _setting(config, f"{section}.parameters.{parameter}", name, value)


def _selector(config: Config, section: str, nodes: Mapping[str, str]) -> Iterator[Setting]:
    if not nodes:
        yield _setting(config, section, "nodes", {})
    for label, condition in nodes.items():
        yield _setting(config, f"{section}.nodes", label, condition)


def _cap(config: Config, name: str) -> Setting:
    """Return the cap of a limit for a job type without a limit of its own."""
    settings = config.settings
    if name in settings.caps:
        return _setting(config, "caps", name, settings.caps[name])
    follows = config.sources.get(f"limits.{name}", DEFAULT) if LIMITS[name].of_resources else DEFAULT
    return Setting("caps", name, cap_of(name, value_of(settings.limits, name)), follows)


def _in_units(value: float, units: Mapping[str, int]) -> str:
    for unit, size in units.items():
        if value >= size and value % size == 0:
            return f'"{_number(value / size)}{unit}"'
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Return a number as people write it: 100000 and not 1e+05."""
    return f"{value:.15g}"
