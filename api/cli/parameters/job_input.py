"""Parse a job's input (`-i k=v` by the JSON Schema of its type, `-i k=@file`, `--input`) and its tags.

A value for a parameter that takes bytes is the content of its file as it is, or the bytes of the text as typed.

Runs in: any machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from killable.api.client.file_source import FileSource
from killable.api.client.input_encoding import (
    PlainInput,
    Schema,
    forms_of,
    is_bytes,
    is_bytes_object,
    is_file_form,
    schema_of,
)
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

    Raise Refused `invalid` with every fault, and click.BadParameter for a pair without a name or `=`.
    """
    members = {} if document is None else _read_document(document)
    if not pairs:
        return members
    schema = _schema_of(client, type)
    faults: list[dict[str, str]] = []
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{pair!r} is not of the form NAME=VALUE or NAME=@FILE", param_hint="input")
        try:
            members[name] = _value(name, text, forms_of(schema.get("properties", {}).get(name, {}), schema))
        except ValueError as error:
            faults.append({"in": "input", "pointer": f"/{name}", "message": str(error)})
    if faults:
        first = faults[0]
        raise Refused(f"-i {first['pointer'][1:]}: {first['message']}", code="invalid", faults=faults)
    given = PlainInput.of(members)
    if not given.has_bytes:
        return members
    sources = [FileSource(each, on_sent=None) for each in given.files(schema)]
    return given.to_json(schema, {at: _uploaded(client, each) for at, each in enumerate(sources)})


def _uploaded(client: Client, source: FileSource) -> str:
    """Upload a file, with its progress in a terminal; return its id."""
    from killable.api.cli.display.upload_progress import upload

    return str(upload(client, source)["file_id"])


def read_tags(pairs: Sequence[str]) -> dict[str, str]:
    return _read_pairs(pairs, "KEY=VALUE", "--tag")


def read_nodes(pairs: Sequence[str]) -> dict[str, str]:
    """Return the selector of nodes. The server checks its conditions."""
    return _read_pairs(pairs, "LABEL=VALUE", "--nodes")


def _read_pairs(pairs: Sequence[str], form: str, option: str) -> dict[str, str]:
    members = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{pair!r} is not of the form {form}", param_hint=option)
        members[name] = value
    return members


def tag_filter(pair: str | None) -> str | None:
    """Return a tag filter as HTTP expects it, `key:value`, from `key=value` or `key:value`."""
    if pair is None:
        return None
    if "=" not in pair and ":" not in pair:
        raise click.BadParameter(f"{pair!r} is not of the form KEY=VALUE", param_hint="--tag")
    equals, colon = pair.partition("="), pair.partition(":")
    name, _, value = equals if equals[1] and len(equals[0]) < len(colon[0]) else colon
    return f"{name}:{value}"


def kinds_of(forms: Sequence[Schema]) -> set[str]:
    """Return the JSON types that the alternatives of a schema accept; empty if one of them names none."""
    found = [_kinds(form) for form in forms]
    return set().union(*found) if all(found) else set()


def _kinds(form: Schema) -> set[str]:
    if "type" in form:
        return {form["type"]} if isinstance(form["type"], str) else set(form["type"])
    if "enum" in form or "const" in form:
        return {_TYPE_NAMES[type(value)] for value in form.get("enum", [form.get("const")])}
    return set()


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


def _schema_of(client: Client, name: str) -> Schema:
    """Return the schema of a type's input; an empty one for an unknown type, which the server will refuse."""
    return schema_of(client.types(), name) or {"additionalProperties": False}


def _value(name: str, text: str, forms: Sequence[Schema]) -> Any:
    """Return the value of one pair. Raise ValueError for one that the forms do not take."""
    return _filed(name, text[1:], forms) if text.startswith("@") else _typed(text, forms)


def _typed(text: str, forms: Sequence[Schema]) -> Any:
    if not any(map(is_bytes_object, forms)):
        return parse_value(text, kinds_of(forms))
    with contextlib.suppress(ValueError, RecursionError):
        members = json.loads(text)
        if isinstance(members, dict) and set(members) == {"base64"}:
            return members
    others = [form for form in forms if not is_bytes(form)]
    if others:
        with contextlib.suppress(ValueError):
            return parse_value(text, kinds_of(others))
    return os.fsencode(text)  # the bytes that the shell passed, which may not be UTF-8


def _filed(name: str, path: str, forms: Sequence[Schema]) -> Any:
    """Return a path where the forms take an uploaded file, else the content of the file.

    That is text if the forms take text and it is UTF-8, else its bytes if they take bytes.
    """
    if any(map(is_file_form, forms)):
        return _to_upload(path, f"-i {name}")
    content = _read_file(path, f"-i {name}")
    others = [form for form in forms if not is_bytes(form)]
    kinds, is_binary = kinds_of(others), len(others) < len(forms)
    if is_binary and "string" not in kinds:
        return content
    try:
        return parse_value(_text(content), kinds)
    except UnicodeDecodeError as error:
        if is_binary:
            return content
        takes = "text" if not kinds or "string" in kinds else " or ".join(_WORDS[kind] for kind in sorted(kinds))
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}), and the job takes {takes} here; for a file of any content"
            f" declare `{name}: bytes` in the job"
        ) from None


def _read_document(document: str) -> dict[str, Any]:
    try:
        if document == "-":
            document = _text(_read_file("-", "--input"))
        elif document.startswith("@"):
            document = _text(_read_file(document[1:], "--input"))
        members = json.loads(document)
    except UnicodeDecodeError as error:
        where = document.removeprefix("@")
        raise Refused(f"--input: {where} is not UTF-8 text (byte {error.start})", code="invalid") from None
    except ValueError as error:
        raise Refused(f"--input is not JSON: {error}", code="invalid") from None
    except RecursionError:
        raise Refused("--input is nested too deeply", code="invalid") from None
    if not isinstance(members, dict):
        raise Refused(f"--input must be a JSON object, not {_TYPE_NAMES[type(members)]}", code="invalid")
    return members


def _read_file(name: str, option: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Refused(f"{option}: {name}: {(error.strerror or str(error)).lower()}", code="invalid") from None


def _to_upload(path: str, option: str) -> Any:
    """Return a path that can be read, or stdin. Raise Refused."""
    if path == "-":
        return sys.stdin.buffer
    try:
        with open(path, "rb"):
            return Path(path)
    except OSError as error:
        raise Refused(f"{option}: {path}: {(error.strerror or str(error)).lower()}", code="invalid") from None


def _text(content: bytes) -> str:
    """Return UTF-8 as text, with the ends of lines as `\\n`. Raise UnicodeDecodeError."""
    return io.TextIOWrapper(io.BytesIO(content), "utf-8").read()
