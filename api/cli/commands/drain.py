"""`killable drain`: let the server refuse new jobs, or accept them again.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from killable.api.cli.display import console, errors
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling


def drain(node: str | None, off: bool, deadline: float | None, as_json: bool, url: str) -> None:
    if off and deadline is not None:
        raise click.BadParameter("--off ends the drain and takes no deadline", param_hint="--deadline")
    with errors.reporting(as_json), open_client(url) as client:
        if node is not None:
            record = client.undrain_node(node) if off else client.drain_node(node, deadline)
            console.print_json(record) if as_json else click.echo(node_line(record, off=off))
            return
        standing = client.undrain() if off else client.drain(deadline_s=deadline)
        console.print_json(standing) if as_json else click.echo(state_line(standing))


def state_line(standing: Mapping[str, Any]) -> str:
    """Return the state of a drain: `draining: new jobs are refused; 2 running and 3 queued left, at most 30 s more`."""
    left = remaining(standing)
    if not standing["draining"]:
        return f"not draining: new jobs are accepted; {left or 'no jobs'}"
    deadline = standing.get("deadline_s")
    at_most = f", at most {spelling.duration(deadline)} more" if left and deadline is not None else ""
    return f"draining: new jobs are refused; {f'{left} left{at_most}' if left else 'no jobs left'}"


def node_line(record: Mapping[str, Any], *, off: bool = False) -> str:
    """Return the state of a node: `gpu-2-90cc1d is draining: it gets no jobs; 2 running left, at most 1m00s more`. Of
    one that is not there, or does not answer, what is to come is told.
    """
    name, state = spelling.plain(record["name"]), record["state"]
    running = f"{record['running']} running"
    if state == "live":
        return f"{name} is live: it gets jobs; {running}"
    if off:
        return f"{name} is {state}: it gets jobs again when it is back"
    left = f"{running} left" if record["running"] else "no jobs left"
    deadline = record["deadline_s"]
    at_most = f", at most {spelling.duration(deadline)} more" if record["running"] and deadline is not None else ""
    return f"{name} is {state}: it gets no jobs; {left}{at_most}"


def remaining(standing: Mapping[str, Any]) -> str:
    """Return `2 running and 3 queued`; empty when there is nothing."""
    return " and ".join(f"{standing[name]} {name}" for name in ("running", "queued") if standing.get(name))
