"""`killable drain`: let the server take no new jobs, or take them again.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from killable.api.cli.display import console, errors, render
from killable.api.cli.parameters.options import Json, Url, open_client, seconds
from killable.api.client.exchange import DEFAULT_URL


def drain(
    off: Annotated[bool, typer.Option("--off", help="Take new jobs again.")] = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline", parser=seconds, metavar="SECONDS", show_default=False,
            help="After so long cancel what is still left: 30s, 5m. Without it accepted jobs run to their ends.",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:  # fmt: skip
    """Refuse new jobs; those that were accepted go on to their ends. Returns at once; `ps` shows what is left.

    Refused jobs get 503 `draining` and may be tried again elsewhere or later. `--off` undoes it.
    """
    if off and deadline is not None:
        raise typer.BadParameter("--off ends the drain; it has no deadline", param_hint="--deadline")
    with errors.reporting(as_json), open_client(url) as client:
        standing = client.undrain() if off else client.drain(deadline_s=deadline)
        console.print_json(standing) if as_json else typer.echo(in_words(standing))


def in_words(standing: Mapping[str, Any]) -> str:
    """Return how a drain stands: `draining: new jobs are refused; 2 running and 3 queued go on, at most 30 s more`."""
    left = remaining(standing)
    if not standing["draining"]:
        return f"not draining: new jobs are taken; {left or 'nothing runs'}"
    deadline = standing.get("deadline_s")
    at_most = f", at most {render.duration(deadline)} more" if left and deadline is not None else ""
    return f"draining: new jobs are refused; {f'{left} go on{at_most}' if left else 'nothing is left'}"


def remaining(standing: Mapping[str, Any]) -> str:
    """Return `2 running and 3 queued`; empty when there is nothing."""
    return " and ".join(f"{standing[name]} {name}" for name in ("running", "queued") if standing.get(name))
