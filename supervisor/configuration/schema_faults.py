"""Checks the tree of a configuration against its tables, and words each fault for the author of the file.

Runs in: supervisor, before it starts. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from killable.supervisor.configuration.command_tables import CommandTable, ItemTable, ParameterTable
from killable.supervisor.configuration.faults import ConfigFault, dotted, shown
from killable.supervisor.configuration.schema import (
    ClusterTable,
    FileTable,
    JobTable,
    LimitsTable,
    PoolTable,
    SandboxTable,
    ServerTable,
    TelemetryTable,
    TenantTable,
    WebhooksTable,
)
from killable.supervisor.configuration.secret_settings import may_be_secret
from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.named_tuples import NamedTuple

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class Found(NamedTuple):
    """A fault, and the path of the value to remove before the rest can be checked."""

    path: tuple[Any, ...]
    fault: ConfigFault


def check(tree: Mapping[str, Any]) -> tuple[FileTable | None, list[Found]]:
    """Return the checked tables, or None and every fault."""
    try:
        return FileTable.model_validate(tree), []
    except ValidationError as error:
        return None, [_found(details) for details in error.errors(include_url=False)]


def keys_of(*section: str) -> list[str]:
    """Return the keys that a section may have."""
    match section:
        case []:
            return list(FileTable.model_fields)
        case ["server"]:
            return list(ServerTable.model_fields)
        case ["cluster"]:
            return list(ClusterTable.model_fields)
        case ["webhooks"]:
            return list(WebhooksTable.model_fields)
        case ["telemetry"]:
            return list(TelemetryTable.model_fields)
        case ["pools", _]:
            return list(PoolTable.model_fields)
        case ["pools", _, "sandbox"]:
            return list(SandboxTable.model_fields)
        case ["jobs", _]:
            return list(JobTable.model_fields)
        case ["commands", _]:
            return list(CommandTable.model_fields)
        case ["commands", _, "parameters", _]:
            return list(ParameterTable.model_fields)
        case ["commands", _, "parameters", _, "items"]:
            return list(ItemTable.model_fields)
        case ["tenants", _]:
            return list(TenantTable.model_fields)
        case _:
            return list(LimitsTable.model_fields)


def _found(details: ErrorDetails) -> Found:
    path = tuple(part for part in details["loc"] if part != "[key]")
    missing = details["type"] == "missing"
    return Found(
        path[:-1] if missing else path, ConfigFault(dotted(path), _expected(details, path), _value(details, path))
    )


def _value(details: ErrorDetails, path: tuple[Any, ...]) -> str:
    if details["type"] == "missing":
        return ""
    return "a value that is not shown" if may_be_secret(path) else shown(details["input"])


def _expected(details: ErrorDetails, path: tuple[Any, ...]) -> str:
    kind, bounds = details["type"], details.get("ctx", {})
    if kind in _UNKNOWN:
        return f"unknown key{_near(path)}"
    if kind == "string_pattern_mismatch" and path[0] == "tenants":
        return "expected the name of an API key: characters A-Z a-z 0-9 _ . - (64 at most)"
    if kind == "string_pattern_mismatch":
        return "expected a name: a lower-case letter, then letters, digits, _ and - (63 at most)"
    if kind == "missing":
        return "missing; it is required"
    words = {
        "expected": details["msg"],
        "int_type": "a whole number",
        "string_type": "text",
        "bool_type": "true or false",
        "tuple_type": "a list of strings",
        "model_type": "a table",
        "dataclass_type": "a table",
        "dict_type": "a table",
        "greater_than_equal": f"at least {bounds.get('ge')}",
        "greater_than": f"more than {bounds.get('gt')}",
        "less_than_equal": f"at most {bounds.get('le')}",
        "literal_error": f"{bounds.get('expected')}".replace("'", '"'),
    }
    return f"expected {words.get(kind, details['msg'])}"


def _near(path: tuple[Any, ...]) -> str:
    """Return a hint: the key that was probably meant, or the valid keys."""
    *tables, key = (str(part) for part in path)
    if tables[:1] == ["commands"] and len(tables) == 2 and key in ("limits", "caps"):
        return f" (limits and caps of a command are in [jobs.{tables[1]}.{key}], as those of any job type)"
    return f" ({did_you_mean(key, keys_of(*tables))})"
