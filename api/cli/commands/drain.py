"""`killable drain`: let the server refuse new jobs, or accept them again.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from killable.api.cli.display import console, errors, render
from killable.api.cli.parameters.options import Json, Url, open_client, seconds
from killable.api.client.addresses import DEFAULT_URL


def drain(
    off: Annotated[bool, typer.Option("--off", help="Accept new jobs again.")] = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline", parser=seconds, metavar="SECONDS", show_default=False,
            help="Cancel the jobs that are left after this time: 30s, 5m. Default: let them finish.",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:  # fmt: skip
    """Refuse new jobs and let the accepted ones finish. Returns at once; `ps` shows what is left.

    Refused jobs get 503 `draining`; clients may retry them later or on another
    server. `--off` ends the drain.
    """
    if off and deadline is not None:
        raise typer.BadParameter("--off ends the drain and takes no deadline", param_hint="--deadline")
    with errors.reporting(as_json), open_client(url) as client:
        standing = client.undrain() if off else client.drain(deadline_s=deadline)
        console.print_json(standing) if as_json else typer.echo(state_line(standing))


def state_line(standing: Mapping[str, Any]) -> str:
    """Return the state of a drain: `draining: new jobs are refused; 2 running and 3 queued left, at most 30 s more`."""
    left = remaining(standing)
    if not standing["draining"]:
        return f"not draining: new jobs are accepted; {left or 'no jobs'}"
    deadline = standing.get("deadline_s")
    at_most = f", at most {render.duration(deadline)} more" if left and deadline is not None else ""
    return f"draining: new jobs are refused; {f'{left} left{at_most}' if left else 'no jobs left'}"


def remaining(standing: Mapping[str, Any]) -> str:
    """Return `2 running and 3 queued`; empty when there is nothing."""
    return " and ".join(f"{standing[name]} {name}" for name in ("running", "queued") if standing.get(name))
