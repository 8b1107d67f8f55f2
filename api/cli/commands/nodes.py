"""`killable nodes`: the machines of a cluster.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from killable.api.cli.display import console, errors, render
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.parameters.command_client import open_client


def nodes(as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        found = client.nodes()
        if as_json:
            console.print_json({"nodes": found})
        elif found:
            console.print_table(listing(found))
        else:
            console.stderr_console().print("this server has no nodes: it is one machine (`killable serve --ray`)")


def listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return NODE STATE RUNNING HEARD DETAIL; `3/8` is 3 of 8 slots."""
    table = Listing(
        [
            Column("NODE"), Column("STATE"), Column("RUNNING", numeric=True), Column("HEARD", 2, numeric=True),
            Column("DETAIL", 1, cut=True),
        ]
    )  # fmt: skip
    for node in records:
        heard = "-" if node["heard_s"] is None else render.duration(node["heard_s"])
        table.add(
            render.plain(node["name"]), str(node["state"]), f"{node['running']}/{node['slots']}", heard,
            render.plain(node["detail"]) or "-",
        )  # fmt: skip
    return table
