"""`killable config`: show every value in force and its source; print an example file, or the schema.

Runs in: any machine for --schema and --example; what asks the pools needs Linux.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from killable.api.cli.commands.check import command_of
from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit

if TYPE_CHECKING:
    from killable.api.cli.server.configuration import InForce
    from killable.api.cli.server.pool_survey import PoolSurvey
    from killable.supervisor.configuration.values_in_force import Setting


def config(
    target: str | None, config: Path | None, no_import: bool, example: bool, schema: bool, as_json: bool
) -> None:
    with errors.reporting(as_json):
        from killable.api.cli.server.configuration import load
        from killable.supervisor.configuration.example import example as example_lines
        from killable.supervisor.configuration.schema import json_schema

        if schema:
            console.print_json(json_schema())
            return
        if example:
            click.echo("\n".join(example_lines()))
            return
        in_force = load(config, os.environ, {}, target)
        found = None if no_import else _ask_pools(in_force)
        _print(in_force, found, as_json, command_of("check", target, config))
        if target is not None and found is not None and found.broken:  # what was asked for is not in force
            raise click.exceptions.Exit(CommandExit.CONFIGURATION)


def _ask_pools(in_force: InForce) -> PoolSurvey:
    require_linux("reading the limits of the job types (--no-import leaves them out)")
    from killable.api.cli.server.pool_survey import survey

    return survey(in_force.config)


def _print(in_force: InForce, found: PoolSurvey | None, as_json: bool, check: str) -> None:
    """`check` is the command that shows why a pool is broken."""
    from killable.api.cli.server.configuration import source_of
    from killable.supervisor.configuration.values_in_force import (
        Setting,
        is_inherited,
        limits_in_force,
        settings_in_force,
    )

    settings = list(settings_in_force(in_force.config))
    keys = [Setting("api keys", key.name, key.role, source_of(key, in_force)) for key in in_force.keys]
    types = found.types if found else ()
    limits = [(limit, job_type) for job_type in types for limit in limits_in_force(in_force.config, job_type)]
    file = in_force.config.file
    broken = {pool.name: pool.detail for pool in (found.broken if found else ())}
    if as_json:
        document: dict[str, Any] = {"file": None if file is None else str(file.absolute())}
        document["values"] = [_members(setting) for setting in settings]
        document["api_keys"] = [{"name": key.name, "role": key.value, "source": key.source} for key in keys]
        if found is not None:
            document["job_types"] = [_members(limit) for limit, _ in limits]
            document["broken_pools"] = broken
        console.print_json(document)
        return
    stderr = console.stderr_console()
    stderr.print(
        f"file: {file.absolute()}"
        if file is not None
        else "file: none (no --config, no $KILLABLE_CONFIG, no ./killable.toml)",
        style="dim",
    )
    console.print_table(settings_table([*settings, *keys], "[{}]"))
    if found is not None and found.types:
        own = [limit for limit, job_type in limits if not is_inherited(job_type.limit_sources[limit.name])]
        others = [job_type.name for job_type in found.types if job_type.name not in {limit.section for limit in own}]
        console.print_table(Text("\nlimits of job types that differ from [limits]", "bold"))
        console.print_table(settings_table(own, "{}"))
        if others:
            console.print_table(Text(f"same as [limits]: {', '.join(others)}"))
    for name in broken:
        stderr.print(Text.assemble((f"pool {name} is broken: ", "bold yellow"), f"`{check}` shows why"))


def settings_table(settings: Sequence[Setting] | Iterable[Setting], heading: str) -> Table:
    """Return the columns KEY VALUE FROM, grouped by section; defaults are dim."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    table.add_column("KEY", no_wrap=True)
    table.add_column("VALUE", overflow="fold")
    table.add_column("FROM", overflow="fold")
    for section, members in groupby(settings, key=lambda setting: setting.section):
        table.add_row(Text(heading.format(section), "bold cyan"), "", "")
        for each in members:
            style = "dim" if each.source.startswith("default") else ""
            table.add_row(Text(f"  {each.name}"), Text(each.spelled, style), Text(each.source, style))
    return table


def _members(setting: Setting) -> dict[str, Any]:
    return {"key": setting.key, "value": setting.value, "source": setting.source}
