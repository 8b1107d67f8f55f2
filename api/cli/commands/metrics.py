"""`killable metrics`: print the server's metrics as a table, as JSON or as Prometheus text.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from killable.api.cli.display import console, errors
from killable.api.cli.display.record_table import facts_table
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling


def metrics(text: bool, as_json: bool, url: str) -> None:
    if text and as_json:
        raise click.BadParameter("--text and --json exclude each other; give only one of them", param_hint="--text")
    with errors.reporting(as_json), open_client(url) as client:
        if text:
            click.echo(client.exposition(), nl=False)
            return
        counts = client.metrics()
        if as_json:
            console.print_json(counts)
        else:
            console.print_table(facts_table(dict(flattened(counts))))


def flattened(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and formatted values; a mapping of numbers (percentiles, counts by code) becomes one line."""
    for name, value in counts.items():
        if not isinstance(value, Mapping):
            yield name, _shown(name, value)
            continue
        deeper = {f"{name}.{key}": member for key, member in value.items() if isinstance(member, Mapping)}
        flat = [f"{key} {_shown(name, member)}" for key, member in value.items() if not isinstance(member, Mapping)]
        if flat or not deeper:
            yield name, "  ".join(flat) or "-"
        yield from flattened(deeper)


def _shown(name: str, value: Any) -> str:
    """Format a value by the unit at the end of its name, or of the name of its mapping."""
    unit = name.partition(".")[0]
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return spelling.plain(value)
    if unit.endswith("_ms"):
        return spelling.milliseconds(float(value))
    if unit.endswith("_bytes"):
        return spelling.size(int(value))
    if unit.endswith("_s"):
        return spelling.duration(float(value))
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:.3g}"
