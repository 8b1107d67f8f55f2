"""`killable workers` and `types`: list the server's worker processes and its job types.

Runs in: any machine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from killable.api.cli.display import console, errors, render
from killable.api.cli.display.listing import Column, Listing
from killable.api.cli.parameters.options import open_client
from killable.api.client.input_encoding import is_bytes
from killable.workers.errors import Refused

_SHOWN_KEYWORDS = frozenset({"type", "enum", "anyOf", "oneOf", "default", "title"})
"""Keywords of a member's schema that other columns show."""


def workers(as_json: bool, url: str) -> None:
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
            console.print_table(worker_listing(found))
        else:
            console.stderr_console().print(
                "no workers: no pool is ready (`killable doctor --url URL` checks the server)"
            )
        if retired:
            console.print_table(Text("\nnot reused", "bold"))
            console.print_table(retired_listing(retired))


def types(name: str | None, as_json: bool, url: str) -> None:
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
        console.print_table(type_listing(found))
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
    console.print_table(input_listing(schema))


def worker_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return WORKER POOL STATE JOB TYPE PID AGE JOBS CPU RSS USS."""
    listing = Listing(
        [
            Column("WORKER"), Column("POOL", 5, cut=True), Column("STATE"), Column("JOB"), Column("TYPE", 4, cut=True),
            Column("PID", numeric=True), Column("AGE", 6, numeric=True), Column("JOBS", 2, numeric=True),
            Column("CPU", 7, numeric=True), Column("RSS", 3, numeric=True), Column("USS", 1, numeric=True),
        ]
    )  # fmt: skip
    for worker in records:
        job_id = worker.get("job_id")
        listing.add(
            str(worker["worker_id"]), str(worker["pool"]), render.state(str(worker["state"])),
            render.short(job_id) if job_id else "-", render.plain(worker.get("type") or "-"), render.pid(worker),
            render.duration(worker.get("age_s")), str(worker.get("jobs", "-")), render.share(worker.get("cpu")),
            render.size(worker.get("rss_bytes")), render.size(worker.get("uss_bytes")),
        )  # fmt: skip
    return listing


def retired_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return WORKER POOL JOB AGO WHY."""
    listing = Listing(
        [
            Column("WORKER"),
            Column("POOL", 1, cut=True),
            Column("JOB"),
            Column("AGO", 2, numeric=True),
            Column("WHY", cut=True),
        ]
    )
    for each in records:
        ago = render.duration(render.age_s(each["at"]))
        listing.add(
            str(each["worker_id"]), str(each["pool"]), render.short(each["job_id"]), ago, render.plain(each["why"])
        )
    return listing


def type_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return TYPE POOL INPUT DESCRIPTION; an unavailable type shows the reason in place of its description."""
    listing = Listing(
        [Column("TYPE"), Column("POOL", 1, cut=True), Column("INPUT", cut=True), Column("DESCRIPTION", 2, cut=True)]
    )
    for record in records:
        what = Text(render.plain(record["description"]))
        if not record["available"]:
            what = Text(f"unavailable: {render.plain(record['unavailable_reason'])}", "yellow")
        listing.add(str(record["name"]), str(record["pool"]), render.signature(record["input_schema"]), what)
    return listing


def input_listing(schema: Mapping[str, Any]) -> Listing:
    """Return MEMBER TYPE DEFAULT BOUNDS of an input's schema."""
    listing = Listing(
        [Column("MEMBER"), Column("TYPE", cut=True), Column("DEFAULT", 1, cut=True), Column("BOUNDS", 2, cut=True)]
    )
    required = set(schema.get("required", ()))
    for name, member in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(member["default"]) if "default" in member else "-"
        hidden = member.keys() if is_bytes(member) else _SHOWN_KEYWORDS
        bounds = {word: value for word, value in member.items() if word not in hidden}
        listing.add(
            name,
            render.kind(member) or "any",
            default,
            "  ".join(f"{w} {json.dumps(v)}" for w, v in bounds.items()) or "-",
        )
    return listing
