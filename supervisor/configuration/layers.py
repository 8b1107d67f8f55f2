"""The layers of the configuration (file, environment, flags): reads and merges them, and keeps where a value came from.

Runs in: supervisor, before it starts. Reads one file and starts nothing.

pydantic-settings is not used: it can neither report where a value came from, nor be strict with a file
(`port = "7833"` is a fault) while it reads numbers from the text of the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from killable.supervisor.configuration import settings_file
from killable.supervisor.configuration.builtin_pools import BUILTIN_POOLS
from killable.supervisor.configuration.command_tables import POOL
from killable.supervisor.configuration.faults import ConfigFault, dotted
from killable.supervisor.configuration.schema_faults import keys_of
from killable.supervisor.configuration.toml_lines import Key, place
from killable.workers.authoring.identifiers import TYPE_NAME
from killable.workers.named_tuples import NamedTuple

ENVIRONMENT_PREFIX = "KILLABLE_"


class Layer(IntEnum):
    """A later layer overrides the earlier ones."""

    BUILT_IN = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


class SourcedValue(NamedTuple):
    """A value and its source."""

    value: Any
    layer: Layer
    source: str


Leaves = dict[Key, SourcedValue]


class Merged(NamedTuple):
    """What the layers say together."""

    leaves: Leaves
    file: Path | None
    """The file that was read."""
    written: bytes
    """What it has."""
    folder: Path
    """The folder that paths are from."""
    builtin: bool
    """Whether the built-in pools are served, because no pool is configured."""


def merge(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], target: str | None
) -> tuple[Merged, list[ConfigFault]]:
    """Return the values of file, environment, flags and command line, the later ones over the earlier ones, and the
    faults. Raise ConfigError for a file that cannot be read as TOML.
    """
    file = settings_file.find(path, environ)
    written, leaves = from_file(file) if file is not None else (b"", {})
    of_environment, faults = from_environment(environ)
    leaves |= of_environment | from_flags(flags)
    folder = Path(os.path.abspath(file.parent if file is not None else "."))
    builtin = False
    if target is not None:
        apply_target(leaves, target)
        folder = Path(os.path.abspath(target)).parent if is_path(target) else Path(os.path.abspath("."))
    elif not any((key[0] == "pools" and key[-1] == "module") or key[0] == "commands" for key in leaves):
        leaves, builtin = built_in() | leaves, True
    add_pools_of_commands(leaves)
    faults += resolve_address(leaves)
    return Merged(leaves, file, written, folder, builtin), faults


def from_file(file: Path) -> tuple[bytes, Leaves]:
    """Return what a file has, and its values. Raise ConfigError if it cannot be read as TOML."""
    written, content, lines = settings_file.read(file)
    return written, {key: SourcedValue(value, Layer.FILE, place(file, key, lines)) for key, value in _leaves(content)}


def from_environment(environ: Mapping[str, str]) -> tuple[Leaves, list[ConfigFault]]:
    """Return the values of variables that name a section (KILLABLE_SERVER__PORT is server.port), and the faults."""
    found: Leaves = {}
    faults: list[ConfigFault] = []
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        parts = name.removeprefix(ENVIRONMENT_PREFIX).split("__")
        if len(parts) == 1:
            faults += _one_underscore(name, text)
        elif parts[0] == "POOLS" and parts[2:3] == ["ENV"]:
            # The rest is the name of a variable: keep its case and underscores, and its value as text.
            found["pools", parts[1].lower(), "env", "__".join(parts[3:])] = SourcedValue(text, Layer.ENVIRONMENT, name)
        else:
            found[tuple(part.lower() for part in parts)] = SourcedValue(_literal(text), Layer.ENVIRONMENT, name)
    return found, faults


def from_flags(flags: Mapping[str, Any]) -> Leaves:
    """Return the values of flags, which map dotted keys ("server.port") to values; None: the flag was not given."""
    return {
        tuple(name.split(".")): SourcedValue(value, Layer.FLAG, "--" + name.rpartition(".")[2].replace("_", "-"))
        for name, value in flags.items()
        if value is not None
    }


def built_in() -> Leaves:
    return {key: SourcedValue(value, Layer.BUILT_IN, "built in") for key, value in _leaves({"pools": BUILTIN_POOLS})}


def apply_target(leaves: Leaves, target: str) -> None:
    """Make a module or a file of jobs the only pool. Settings that exist for a pool of its name apply."""
    path = Path(target).absolute()
    stem = path.stem if is_path(target) else target.rpartition(".")[2]
    pool = re.sub(r"[^a-z0-9_-]", "_", stem.lower()).lstrip("0123456789_-")[:63] or "jobs"
    for key in [key for key in leaves if key[0] == "commands" or (key[0] == "pools" and key[1:2] != (pool,))]:
        del leaves[key]
    module = str(path) if is_path(target) else target
    leaves["pools", pool, "module"] = SourcedValue(module, Layer.FLAG, "the command line")


def add_pools_of_commands(leaves: Leaves) -> None:
    """Let the pools of commands be there, also without a module."""
    for command in {key[1] for key in leaves if key[0] == "commands" and len(key) > 2}:
        written = leaves.get(("commands", command, "pool"))
        pool = POOL if written is None else written.value
        if isinstance(pool, str) and re.fullmatch(TYPE_NAME, pool):
            leaves.setdefault(("pools", pool, "module"), SourcedValue((), Layer.BUILT_IN, "built in"))


def resolve_address(leaves: Leaves) -> list[ConfigFault]:
    """A Unix socket excludes host and port. Let the later layer win; both in one layer are a fault."""
    uds = leaves.get(("server", "uds"))
    rivals = [(key, leaves[key]) for key in (("server", "host"), ("server", "port")) if key in leaves]
    if uds is None or uds.value == "" or not rivals:
        return []
    key, rival = max(rivals, key=lambda found: found[1].layer)
    if rival.layer > uds.layer:
        del leaves["server", "uds"]
    elif rival.layer == uds.layer:
        expected = f"expected a Unix socket, or host and port, not both ({dotted(key)} is set too: {rival.source})"
        return [ConfigFault("server.uds", expected, "", uds.source)]
    return []


def tree(leaves: Leaves) -> dict[str, Any]:
    """Return leaves as nested tables. A value where another layer has a table stays, so that `check` finds it."""
    root: dict[str, Any] = {}
    for key, written in leaves.items():
        table: Any = root
        for part in key[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict) and not (written.value == {} and key[-1] in table):
            table[key[-1]] = written.value
    return root


def without(leaves: Leaves, path: tuple[Any, ...]) -> Leaves:
    """Return the leaves that are neither below a path nor above it."""
    return {key: written for key, written in leaves.items() if key[: len(path)] != path[: len(key)]}


def is_path(module: str) -> bool:
    return module.endswith(".py") or "/" in module


def _leaves(table: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value that is not a table, with its path; an empty table counts as a value."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _one_underscore(name: str, text: str) -> Iterator[ConfigFault]:
    """Yield a fault for KILLABLE_SERVER_PORT, which sets nothing. (Kubernetes sets it to tcp://..., for a service.)"""
    section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    tables = ("server", "cluster", "webhooks", "telemetry", "limits", "caps")
    if section in tables and key in keys_of(section) and "://" not in text:
        meant = f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
        yield ConfigFault(name, f"unknown variable (did you mean {meant}, with two underscores?)", "")


def _literal(text: str) -> Any:
    """Return a number, a truth value or a list as TOML would read it; everything else as text."""
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return value["value"] if len(value) == 1 and isinstance(value["value"], (bool, int, float, list)) else text
