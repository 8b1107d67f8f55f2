"""`killable types`: list the job types of the server, or show one in full.

Runs in: any machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.display.record_table import facts_table
from killable.api.cli.parameters.command_client import open_client
from killable.api.client.input_encoding import is_bytes, is_file_form
from killable.api.explanation import spelling
from killable.workers.errors import Refused

_SHOWN_KEYWORDS = frozenset({"type", "enum", "anyOf", "oneOf", "allOf", "default", "title"})
"""Keywords of a member's schema that other columns show, or that nobody reads."""


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
    console.print_table(facts_table(rest))
    console.print_table(Text("\ninput", "bold"))
    members = schema.get("properties", {})
    if not members:
        console.print_table(
            Text("takes no input" if schema.get("additionalProperties") is False else "takes any members")
        )
        return
    console.print_table(input_listing(schema))


def type_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return TYPE POOL INPUT DESCRIPTION; an unavailable type shows the reason in place of its description."""
    listing = Listing(
        [Column("TYPE"), Column("POOL", 1, cut=True), Column("INPUT", cut=True), Column("DESCRIPTION", 2, cut=True)]
    )
    for record in records:
        what = Text(spelling.plain(record["description"]))
        if not record["available"]:
            what = Text(f"unavailable: {spelling.plain(record['unavailable_reason'])}", "yellow")
        listing.add(str(record["name"]), str(record["pool"]), signature(record["input_schema"]), what)
    return listing


def input_listing(schema: Mapping[str, Any]) -> Listing:
    """Return MEMBER TYPE DEFAULT BOUNDS of an input's schema."""
    listing = Listing(
        [Column("MEMBER"), Column("TYPE", cut=True), Column("DEFAULT", 1, cut=True), Column("BOUNDS", 2, cut=True)]
    )
    required = set(schema.get("required", ()))
    for name, member in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(member["default"]) if "default" in member else "-"
        hidden = member.keys() if is_bytes(member) or is_file_form(member) else _SHOWN_KEYWORDS
        bounds = {word: value for word, value in member.items() if word not in hidden}
        listing.add(
            name,
            kind(member) or "any",
            default,
            "  ".join(f"{w} {json.dumps(v)}" for w, v in bounds.items()) or "-",
        )
    return listing


def signature(schema: Mapping[str, Any]) -> str:
    """Return an input's members in Python style: `text: string, chunk: integer = 4000`."""
    required = set(schema.get("required", ()))
    parts = []
    for name, member in schema.get("properties", {}).items():
        type_ = kind(member)
        default = f" = {json.dumps(member['default'])}" if "default" in member else "" if name in required else " = ..."
        parts.append(f"{name}{f': {type_}' if type_ else ''}{default}")
    return spelling.plain(", ".join(parts)) or "-"


def kind(member: Mapping[str, Any]) -> str:
    """Return the type of a member's schema: `bytes`, `integer|null`, `"fast"|"slow"`; empty if it names none."""
    if is_file_form(member):
        return "file"
    if is_bytes(member):
        return "bytes"
    if "enum" in member:
        return "|".join(json.dumps(value) for value in member["enum"])
    if isinstance(member.get("type"), str):
        return str(member["type"])
    if isinstance(member.get("type"), list):
        return "|".join(str(name) for name in member["type"])
    forms = member.get("anyOf") or member.get("oneOf") or ()
    return "|".join(filter(None, map(kind, forms)))
