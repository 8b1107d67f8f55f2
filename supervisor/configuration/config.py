"""The configuration in force: checks the layers, and makes the settings of supervisor and server from them.

Runs in: supervisor, before it starts; `killable config` and `check`. Reads files and starts nothing.

    flag  >  environment (KILLABLE_SERVER__PORT)  >  file  >  (the decorators, known only to the zygotes)  >  default
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from killable.supervisor.configuration import layers
from killable.supervisor.configuration.absolute_paths import absolute_path, absolute_python, absolute_settings
from killable.supervisor.configuration.command_checks import command_faults, pool_commands
from killable.supervisor.configuration.faults import ConfigError, ConfigFault, dotted, shown
from killable.supervisor.configuration.layers import Leaves
from killable.supervisor.configuration.schema import FileTable, PoolTable, SandboxTable
from killable.supervisor.configuration.schema_faults import check
from killable.supervisor.configuration.value_checks import (
    configured_caps,
    value_faults,
)
from killable.supervisor.http_server_settings import (
    ClusterSettings,
    ServerSettings,
    TelemetrySettings,
    WebhookSettings,
)
from killable.supervisor.jobs.effective_limits import is_over
from killable.supervisor.linux import memory_size
from killable.supervisor.settings import JobSettings, PoolSpec, SandboxSpec, Settings, SupervisorSettings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, MEMORY_SHARE_MAX, over, value_of

__all__ = ["Config", "ConfigError", "ConfigFault", "examine"]

PROOFS = ("", "cgroup+descendants", "descendants")


@dataclass(frozen=True, slots=True)
class Config:
    """The checked configuration in force."""

    server: ServerSettings
    settings: Settings
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    file: Path | None = None
    written: bytes = field(default=b"", repr=False)
    """What the file has, as it was read."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The source of each dotted key, or what lowered it. A key that is absent has its default."""
    builtin: bool = False
    """Whether the built-in pools are served, because no pool is configured."""


def examine(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], target: str | None
) -> tuple[Config, list[ConfigFault]]:
    """Return the configuration without its faulty values, and every fault. With one it is for display, not for serving.

    `path` is the value of --config. `flags` maps dotted keys ("server.port") to the values of flags; None stands for a
    flag that was not given. `target` is a module or a file of jobs: it becomes the only pool, named after it.

    Raise ConfigError for a file that cannot be read as TOML.
    """
    merged, faults = layers.merge(path, environ, flags, target)
    leaves, file, written, folder, builtin = merged
    tables, found = _checked(leaves)
    faults += found
    proof: Any = environ.get("KILLABLE_PROOF", "")
    if proof not in PROOFS:
        faults.append(ConfigFault("KILLABLE_PROOF", f"expected one of {', '.join(PROOFS[1:])}", shown(proof)))
        proof = ""
    sources = {dotted(key): written.source for key, written in leaves.items()}
    server, lowered = _server(ServerSettings(**dict(tables.server)), leaves, file)
    webhooks = _webhooks(WebhookSettings(**dict(tables.webhooks)), leaves, file)
    faults += value_faults(tables, server, webhooks, folder, {fault.key for fault in faults})
    environments = {name: pool.env for name, pool in tables.pools.items()}
    cluster = ClusterSettings(**dict(tables.cluster))
    doubted = {fault.key for fault in faults}
    faults += command_faults(tables.commands, environments, folder, doubted, runs_here=not cluster.ray)
    settings = _settings(tables, server, folder, proof)
    sources |= lowered | {
        f"limits.{name}": f"default, lowered to {_lowered_by(tables, name)}"
        for name in _lowered(tables)
        if f"limits.{name}" not in sources
    }
    telemetry = TelemetrySettings(**dict(tables.telemetry))
    return Config(server, settings, cluster, webhooks, telemetry, file, written, sources, builtin), [
        _with_source(fault, sources) for fault in faults
    ]


def _checked(leaves: Leaves) -> tuple[FileTable, list[ConfigFault]]:
    """Check the leaves. Remove the faulty ones and check again, to find every fault and keep the rest."""
    faults: list[ConfigFault] = []
    while True:
        tables, found = check(layers.tree(leaves))
        faults += (each.fault for each in found)
        if tables is not None:
            return tables, faults
        before = len(leaves)
        for each in found:
            leaves = layers.without(leaves, each.path)
        assert len(leaves) < before, faults


def _server(server: ServerSettings, leaves: Leaves, file: Path | None) -> tuple[ServerSettings, dict[str, str]]:
    """Make paths absolute, those in the file from its folder. Lower a default that is over the bound above it."""
    changes = absolute_settings(server, "server", leaves, file)
    lowered: dict[str, str] = {}
    if ("server", "body_bytes_max") not in leaves and server.body_bytes_max > server.queue_bytes_max:
        changes["body_bytes_max"] = server.queue_bytes_max
        lowered["server.body_bytes_max"] = "default, lowered to server.queue_bytes_max"
    return replace(server, **changes), lowered


def _webhooks(webhooks: WebhookSettings, leaves: Leaves, file: Path | None) -> WebhookSettings:
    return replace(webhooks, **absolute_settings(webhooks, "webhooks", leaves, file))


def _with_source(fault: ConfigFault, sources: Mapping[str, str]) -> ConfigFault:
    """Add the source of the key, or of a key below it."""
    if fault.source:
        return fault
    written = (who for name, who in sources.items() if name == fault.key or name.startswith(f"{fault.key}."))
    return replace(fault, source=next(written, ""))


def _pools(tables: FileTable, folder: Path) -> Iterator[PoolSpec]:
    for name, table in tables.pools.items():
        yield _pool(name, table, folder)._replace(commands=pool_commands(tables.commands, folder, name))


def _pool(name: str, table: PoolTable, folder: Path) -> PoolSpec:
    workers = table.workers or len(table.affinity)
    shared = set(PoolSpec._fields) & PoolTable.model_fields.keys() - {"workers", "python", "sandbox"}
    members: dict[str, Any] = {each: getattr(table, each) for each in shared}
    if workers:
        members["workers"] = workers
    return PoolSpec(
        name=name,
        modules=tuple(absolute_path(m, folder) if layers.is_path(m) else m for m in table.module),
        python=absolute_python(table.python, folder) if table.python else "",
        folder=str(folder),
        sandbox=_sandbox(table.sandbox, folder),
        by_cores=not workers,
        **members,
    )


def _sandbox(table: SandboxTable, folder: Path) -> SandboxSpec:
    def absolute(paths: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if paths is None else tuple(absolute_path(path, folder) for path in paths)

    return SandboxSpec(table.network, table.shared_memory, absolute(table.write), absolute(table.read))


def _lowered(tables: FileTable) -> dict[str, float]:
    """Return what lowers a default limit: a cap, which every submission would be over, or the size of the machine."""
    bounds = {"memory_bytes": int(memory_size.usable_memory() * MEMORY_SHARE_MAX)} | configured_caps(tables.caps)
    return {
        name: bound
        for name, bound in bounds.items()
        if name not in tables.limits.given() and is_over(value_of(DEFAULT_LIMITS, name), bound)
    }


def _lowered_by(tables: FileTable, name: str) -> str:
    return f"caps.{name}" if name in configured_caps(tables.caps) else "three quarters of this machine's memory"


def _settings(tables: FileTable, server: ServerSettings, folder: Path, proof: Any) -> Settings:
    return Settings(
        pools=tuple(_pools(tables, folder)),
        limits=over(DEFAULT_LIMITS, _lowered(tables) | tables.limits.given()),
        caps=tables.caps.given(),
        jobs={n: JobSettings(job.limits.given(), job.caps.given()) for n, job in tables.jobs.items()},
        tenants={name: table.given() | {"caps": table.caps.given()} for name, table in tables.tenants.items()},
        proof=proof,
        has_files=server.files_bytes_max > 0 and not ClusterSettings(**dict(tables.cluster)).ray,
        **{each.name: getattr(server, each.name) for each in fields(SupervisorSettings)},
    )
