"""`killable metrics`: the server's counts, as a table or as Prometheus reads them.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from killable.api.cli.display import console, errors, render
from killable.api.cli.parameters.options import Json, Url, open_client
from killable.api.client.exchange import DEFAULT_URL


def metrics(
    text: Annotated[bool, typer.Option("--text", help="The Prometheus text, as GET /metrics answers.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show how many jobs ended in which way since the server started, what it does now, and how fast cancels were."""
    if text and as_json:
        raise typer.BadParameter("--text and --json are two forms; give one of them", param_hint="--text")
    with errors.reporting(as_json), open_client(url) as client:
        if text:
            typer.echo(client.exposition(), nl=False)
            return
        counts = client.metrics()
        if as_json:
            console.print_json(counts)
        else:
            console.print_table(render.facts_table(dict(flattened(counts))))


def flattened(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and their values in words; a mapping of numbers (percentiles, counts by code) is one line."""
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
    """Return a value by the unit that its name has, or the name of what it is one of."""
    unit = name.partition(".")[0]
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return render.plain(value)
    if unit.endswith("_ms"):
        return render.milliseconds(float(value))
    if unit.endswith("_bytes"):
        return render.size(int(value))
    if unit.endswith("_s"):
        return render.duration(float(value))
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:.3g}"
