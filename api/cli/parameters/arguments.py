"""Parse a job's input (`-i k=v` by the JSON Schema of its type, `-i k=@file`, `--input`) and its tags.

Runs in: any machine.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client

_TYPE_NAMES = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array", dict: "object",
}  # fmt: skip
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a JSON list",
    "object": "a JSON object",
}


def read_input(client: Client, type: str, pairs: Sequence[str], document: str | None) -> dict[str, Any]:
    """Return the input: the members of the document, overridden by the pairs.

    Raise Refused `invalid` with every fault, and typer.BadParameter for a pair without a name or `=`.
    """
    members = {} if document is None else _read_document(document)
    if not pairs:
        return members
    schema = _schema_of(client, type)
    faults: list[dict[str, str]] = []
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not name or not separator:
            raise typer.BadParameter(f"{pair!r} is not of the form NAME=VALUE or NAME=@FILE", param_hint="input")
        if text.startswith("@"):
            text = _read_file(text[1:], f"-i {name}")
        try:
            members[name] = parse_value(text, kinds_of(schema.get("properties", {}).get(name, {}), schema))
        except ValueError as error:
            faults.append({"in": "input", "pointer": f"/{name}", "message": str(error)})
    if faults:
        first = faults[0]
        raise Refused(f"-i {first['pointer'][1:]}: {first['message']}", code="invalid", faults=faults)
    return members


def read_tags(pairs: Sequence[str]) -> dict[str, str]:
    tags = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise typer.BadParameter(f"{pair!r} is not of the form KEY=VALUE", param_hint="--tag")
        tags[name] = value
    return tags


def tag_filter(pair: str | None) -> str | None:
    """Return a tag filter as HTTP expects it, `key:value`, from `key=value` or `key:value`."""
    if pair is None:
        return None
    if "=" not in pair and ":" not in pair:
        raise typer.BadParameter(f"{pair!r} is not of the form KEY=VALUE", param_hint="--tag")
    equals, colon = pair.partition("="), pair.partition(":")
    name, _, value = equals if equals[1] and len(equals[0]) < len(colon[0]) else colon
    return f"{name}:{value}"


def kinds_of(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """Return the JSON types that a schema accepts; empty if it names none."""
    reference = str(schema.get("$ref", ""))
    if depth > 8:  # definitions that refer to each other
        return set()
    if reference.startswith("#/$defs/"):
        return kinds_of(root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {}), root, depth + 1)
    if "type" in schema:
        return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    if "enum" in schema or "const" in schema:
        return {_TYPE_NAMES[type(value)] for value in schema.get("enum", [schema.get("const")])}
    forms = [form for word in ("anyOf", "oneOf", "allOf") for form in schema.get(word, ())]
    found = [kinds_of(form, root, depth + 1) for form in forms]
    return set().union(*found) if all(found) else set()


def parse_value(text: str, kinds: set[str]) -> Any:
    """Return a value of one of these types; the text itself if they include strings, or if none is given.

    Raise ValueError.
    """
    if not kinds or "string" in kinds:
        return None if text == "null" and "null" in kinds else text
    if "null" in kinds and text == "null":
        return None
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    for kind in ("integer", "number"):
        if kind in kinds:
            try:
                number = int(text) if kind == "integer" else float(text)
            except ValueError:
                continue
            if isinstance(number, int) or math.isfinite(number):
                return number
    if kinds & {"array", "object"}:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if parsed is not None and _TYPE_NAMES[type(parsed)] in kinds:
            return parsed
    shown = text if len(text) <= 40 else text[:37] + "..."
    raise ValueError(f"must be {' or '.join(_WORDS[kind] for kind in sorted(kinds))}, not {json.dumps(shown)}")


def _schema_of(client: Client, name: str) -> dict[str, Any]:
    """Return the schema of a type's input; an empty one for an unknown type, which the server will refuse."""
    for job_type in client.types():
        if name == job_type["name"] or name in job_type.get("operations", ()):
            return dict(job_type["input_schema"])
    return {}


def _read_document(document: str) -> dict[str, Any]:
    if document == "-":
        document = _read_file("-", "--input")
    elif document.startswith("@"):
        document = _read_file(document[1:], "--input")
    try:
        members = json.loads(document)
    except ValueError as error:
        raise Refused(f"--input is not JSON: {error}", code="invalid") from None
    if not isinstance(members, dict):
        raise Refused(f"--input must be a JSON object, not {_TYPE_NAMES[type(members)]}", code="invalid")
    return members


def _read_file(name: str, option: str) -> str:
    if name == "-" and sys.stdin is None:
        raise Refused(f"{option}: stdin is closed", code="invalid")
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except OSError as error:
        raise Refused(f"{option}: {name}: {(error.strerror or str(error)).lower()}", code="invalid") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{option}: {name} is not UTF-8 text (byte {error.start})", code="invalid") from None
