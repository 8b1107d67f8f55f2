"""`killable check`: start every pool once, and report whether `serve` would start.

Runs in: supervisor, for a moment.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.explanation import spelling
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, flat, value_of

if TYPE_CHECKING:
    from killable.api.cli.server.configuration import InForce
    from killable.api.cli.server.pool_survey import PoolSurvey
    from killable.supervisor.configuration.config import ConfigFault
    from killable.supervisor.models import JobType


_COLUMNS = {
    "queue_s": "QUEUE", "start_s": "START", "run_s": "RUN", "grace_s": "GRACE", "ack_s": "ACK",
    "memory_bytes": "MEMORY", "output_bytes": "OUTPUT",
}  # fmt: skip
"""Limits with a column of their own, and its title."""


def check(target: str | None, config: Path | None, as_json: bool) -> None:
    with errors.reporting(as_json):
        require_linux("check")
        from killable.api.cli.server.configuration import examine
        from killable.api.cli.server.pool_survey import faults_of, survey

        in_force, faults = examine(config, os.environ, {}, target)
        found = survey(in_force.config)
        # The survey runs without the faulty settings: they are reported once, and not as faults of the pools.
        faults += faults_of(in_force.config, found)
        if as_json:
            console.print_json(_members(in_force, found, faults))
        else:
            _print(found, faults, command_of("serve", target, config))
        raise click.exceptions.Exit(CommandExit.CONFIGURATION if faults else CommandExit.OK)


def _members(in_force: InForce, found: PoolSurvey, faults: Sequence[ConfigFault]) -> dict[str, Any]:
    from killable.api.cli.server.announcement import key_members

    file = in_force.config.file
    return {
        "ok": not faults,
        "file": None if file is None else str(file.absolute()),
        "faults": [asdict(fault) for fault in faults],
        "keys": key_members(in_force),
        "pools": [pool._asdict() for pool in found.pools],
        "job_types": [job_type._asdict() for job_type in found.types],
    }


def command_of(verb: str, target: str | None, config: Path | None) -> str:
    """Return the command by which another verb takes the same configuration."""
    words = [*(() if config is None else ("--config", str(config))), *(() if target is None else (target,))]
    return shlex.join(["killable", verb, *words])


def _print(found: PoolSurvey, faults: Sequence[ConfigFault], serving: str) -> None:
    from killable.api.cli.server.announcement import pools_table, sandboxes, troubles

    if found.pools:
        console.print_table(pools_table(found.pools, found.types))
    if found.types:
        console.print_table(Text(""))
        console.print_table(_types_table(found.types))
    stderr = console.stderr_console()
    for text in (*troubles(found.pools, found.types), *sandboxes(found.pools)):
        stderr.print(text)
    if not faults:
        pools, types = spelling.counted(len(found.pools), "pool"), spelling.counted(len(found.types), "job type")
        stderr.print(Text.assemble(("ok: ", "bold green"), f"{pools}, {types}; `{serving}` can start"))
        return
    stderr.print(Text(spelling.counted(len(faults), "fault") + ":", "bold red"))
    for fault in faults:
        stderr.print(f"  {fault}")


def _types_table(types: Sequence[JobType]) -> Table:
    """Return the limits in force for each job type; `killable config` shows their sources."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("JOB TYPE", "POOL", *_COLUMNS.values()):
        table.add_column(name, no_wrap=True)
    table.add_column("OTHERS")
    for job_type in types:
        limits = dict(job_type.limits)
        cells = (_limit(name, limits.pop(name)) for name in _COLUMNS)
        label = Text(job_type.name, "" if job_type.available else "yellow")
        table.add_row(label, job_type.pool, *cells, ", ".join(_others(limits)))
    return table


def _others(limits: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits without a column that differ from the defaults."""
    for limit, name, value in flat(limits):
        if value != value_of(DEFAULT_LIMITS, limit):
            yield f"{name} {_limit(limit, value)}"


def _limit(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_s"):
        return spelling.setting(value)
    return spelling.size(int(value)) if name.endswith("_bytes") else f"{value:.15g}"
