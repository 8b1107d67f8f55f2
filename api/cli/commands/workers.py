"""`killable workers` and `types`: list the server's worker processes and its job types.

Runs in: any machine.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.text import Text

from killable.api.cli.display import console, errors, render, tables
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.options import Json, Url, open_client
from killable.api.client.addresses import DEFAULT_URL
from killable.workers.errors import Refused


def workers(as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List the server's worker processes: idle ones, busy ones with their jobs, and those that are stopping.

    CPU is a share of one core, averaged over the worker's life; USS is the
    memory that no other process shares. Below are the latest workers that were
    not reused, with the reason: what their last job left behind (a thread, a
    child process, a signal handler). `killable kill w-7` ends one.
    """
    with errors.reporting(as_json), open_client(url) as client:
        answer = client.workers_and_retired()
        found, retired = answer["workers"], answer.get("retired")  # absent from older servers
        if as_json:
            console.print_json(answer)
            return
        if found:
            counts = Counter(str(worker["state"]) for worker in found)
            named = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
            console.stderr_console().print(f"{render.counted(len(found), 'worker')}: {named}", style="dim")
            console.print_table(tables.workers(found))
        else:
            console.stderr_console().print(
                "no workers: no pool is ready (`killable doctor --url URL` checks the server)"
            )
        if retired:
            console.print_table(Text("\nnot reused", "bold"))
            console.print_table(tables.retired(retired))


def types(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="TYPE", help="Show this job type in full.", show_default=False, autocompletion=completion.job_types
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the job types with their inputs; with TYPE, show one in full: schema, limits, caps."""
    with errors.reporting(as_json), open_client(url) as client:
        found = client.types()
        if name is None:
            _print_all(found, as_json)
            return
        chosen = next((one for one in found if name == one["name"] or name in one.get("operations", ())), None)
        if chosen is None:
            there_are = ", ".join(str(one["name"]) for one in found) or "none"
            raise Refused(f"there is no job type {name} (there are {there_are})", code="unknown_job_type", type=name)
        console.print_json(chosen) if as_json else _print_one(chosen)


def _print_all(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        console.print_json({"job_types": found})
    elif found:
        console.print_table(tables.job_types(found))
    else:
        console.stderr_console().print("no job types: no pool is ready (`killable doctor --url URL` checks the server)")


def _print_one(job_type: dict[str, Any]) -> None:
    schema = job_type["input_schema"]
    rest = {name: value for name, value in job_type.items() if name != "input_schema"}
    console.print_table(render.facts_table(rest))
    console.print_table(Text("\ninput", "bold"))
    members = schema.get("properties", {})
    if not members:
        console.print_table(
            Text("takes no input" if schema.get("additionalProperties") is False else "takes any members")
        )
        return
    console.print_table(tables.input_members(schema))
