"""`killable nodes`: the machines of a cluster.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from killable.api.cli.display import console, errors
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.display.job_state import state_text
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling

OWN = ("node", "host")
"""Labels that tell nothing more: the name of the node begins with the host's."""


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
    """Return NODE STATE RUNNING HEARD LABELS DETAIL; `3/8` is 3 of 8 slots."""
    table = Listing(
        [
            Column("NODE"), Column("STATE"), Column("RUNNING", numeric=True), Column("HEARD", 2, numeric=True),
            Column("LABELS", 3, cut=True), Column("DETAIL", 1, cut=True),
        ]
    )  # fmt: skip
    for node in records:
        heard = "-" if node["heard_s"] is None else spelling.duration(node["heard_s"])
        table.add(
            spelling.plain(node["name"]), state_text(str(node["state"])), f"{node['running']}/{node['slots']}", heard,
            spelling.plain(labels_of(node["labels"])) or "-", spelling.plain(detail_of(node)) or "-",
        )  # fmt: skip
    return table


def labels_of(labels: Mapping[str, str]) -> str:
    """Return `disk=ssd zone=a`: not the labels that every node has, and not Ray's own."""
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()) if "/" not in name and name not in OWN)


def detail_of(node: Mapping[str, Any]) -> str:
    """Return why it has its state, with what is left of its drain."""
    detail, left_s = str(node["detail"]), node["deadline_s"]
    if left_s is None or not node["running"]:
        return detail
    return f"{detail}; what runs is stopped in {spelling.duration(left_s)}"
