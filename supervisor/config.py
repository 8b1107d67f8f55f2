"""`killable.toml`: find it, lay the environment and the flags over it, check everything at once.

Runs in: supervisor, before it starts. Reads one file and starts nothing.

    flag  >  environment (KILLABLE_SERVER__PORT)  >  file  >  (the decorators, known only to the zygotes)  >  default

The layers are laid over each other here and not by pydantic-settings, which can neither say where a value came from
nor be strict with a file (`port = "7833"` is a fault) while it reads numbers out of the environment's text.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from killable.supervisor.job import Limits
from killable.supervisor.settings import JobSettings, PoolSpec, Settings
from killable.supervisor.tables import (
    NO_LIMIT,
    CapsTable,
    ConfigError,
    Fault,
    FileTable,
    PoolTable,
    ServerSettings,
    check,
    dotted,
    shown,
)

__all__ = ["Config", "ConfigError", "Fault", "ServerSettings", "load"]

FILE_NAME = "killable.toml"
ENVIRONMENT_PREFIX = "KILLABLE_"
PROOFS = ("", "cgroup+descendants", "descendants")

BUILTIN_POOLS: Mapping[str, Mapping[str, Any]] = {
    "text": {"module": "killable.workers.builtin.tokenize"},
    # llama.cpp starts threads when it loads: such a process must not be forked from.
    "llm": {"module": "killable.workers.builtin.generate", "start_method": "spawn"},
}

DEFAULT_CAPS = Settings(pools=()).caps

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """Everything in force, checked."""

    server: ServerSettings
    settings: Settings
    file: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Who wrote each dotted key; what is not in it has its default."""


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], target: str | None) -> Config:
    """Return the configuration in force. Raise ConfigError with every fault.

    `path` is --config's. `flags` maps dotted keys ("server.port") to what flags said; None stands for a flag that was
    not given. `target` is a module or a file of jobs: the only pool then, named after it.
    """
    file = _find(path, environ)
    leaves: dict[Key, tuple[Any, str]] = {}
    if file is not None:
        leaves.update({key: (value, str(file)) for key, value in _leaves(_read(file))})
    leaves.update(_from_environment(environ))
    for name, value in flags.items():
        if value is not None:
            leaves[tuple(name.split("."))] = (value, f"--{name.rpartition('.')[2]}")
    folder = os.path.abspath(file.parent if file is not None else ".")
    if target is not None:
        folder = _lay_target(leaves, target)
    elif not any(key[0] == "pools" and key[-1] == "module" for key in leaves):
        builtin = {key: (value, "built in") for key, value in _leaves({"pools": BUILTIN_POOLS})}
        leaves = builtin | leaves
    sources = {dotted(key): source for key, (_, source) in leaves.items()}
    tables, faults = check(_tree(leaves))
    proof = environ.get("KILLABLE_PROOF", "")
    if proof not in PROOFS:
        faults.append(Fault("KILLABLE_PROOF", f"expected one of {', '.join(PROOFS[1:])}", shown(proof)))
    if tables is not None:
        faults += _contradictions(tables, folder)
    if faults or tables is None:
        raise ConfigError.of([_with_source(fault, sources) for fault in faults])
    return Config(tables.server, _settings(tables, folder, proof), file, sources)


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: --config, KILLABLE_CONFIG, ./killable.toml, or None."""
    named = path or (Path(environ["KILLABLE_CONFIG"]) if environ.get("KILLABLE_CONFIG") else None)
    if named is not None:
        return named
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError.of([Fault(str(file), "expected a readable file", error.strerror or str(error))]) from error
    except UnicodeDecodeError as error:
        raise ConfigError.of([Fault(str(file), "expected UTF-8 text", f"other bytes at {error.start}")]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.of([Fault(str(file), "expected TOML", str(error))]) from error


def _leaves(tree: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value that is not a table, with its path; an empty table counts as a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _tree(leaves: Mapping[Key, tuple[Any, str]]) -> dict[str, Any]:
    """Put leaves together again. A value where another layer has a table stays, for the check to find."""
    tree: dict[str, Any] = {}
    for key, (value, _) in leaves.items():
        table: Any = tree
        for part in key[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict) and not (value == {} and key[-1] in table):
            table[key[-1]] = value
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[Key, tuple[Any, str]]:
    """Return the values of the variables with a section in their name: KILLABLE_SERVER__PORT is server.port."""
    found: dict[Key, tuple[Any, str]] = {}
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        parts = name.removeprefix(ENVIRONMENT_PREFIX).split("__")
        if parts[0] == "POOLS" and parts[2:3] == ["ENV"]:
            # The rest is the name of a variable: its case and its underscores are its own, and its value is text.
            found["pools", parts[1].lower(), "env", "__".join(parts[3:])] = (text, name)
        else:
            found[tuple(part.lower() for part in parts)] = (_literal(text), name)
    return found


def _literal(text: str) -> Any:
    """Read a number, a truth value or a list as TOML would; everything else is text."""
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return value["value"] if len(value) == 1 and isinstance(value["value"], (bool, int, float, list)) else text


def _lay_target(leaves: dict[Key, tuple[Any, str]], target: str) -> str:
    """Make the target the only pool, with what is written for a pool of its name; return its folder."""
    path = os.path.abspath(target)
    stem = Path(path).stem if _is_path(target) else target.rpartition(".")[2]
    pool = re.sub(r"[^a-z0-9_-]", "_", stem.lower()).lstrip("0123456789_-")[:63] or "jobs"
    for key in [key for key in leaves if key[0] == "pools" and key[1:2] != (pool,)]:
        del leaves[key]
    leaves["pools", pool, "module"] = (path if _is_path(target) else target, "the command line")
    return os.path.dirname(path) if _is_path(target) else os.path.abspath(".")


def _contradictions(tables: FileTable, folder: str) -> list[Fault]:
    """Return what no single value shows: files that are not there, defaults over their caps."""
    faults: list[Fault] = []
    for name, pool in tables.pools.items():
        key = f"pools.{name}.module"
        for module in pool.module:
            if _is_path(module) and not os.path.isfile(os.path.join(folder, module)):
                faults.append(Fault(key, "expected a Python file", f"{shown(module)}: no such file"))
            elif not _is_path(module) and not all(part.isidentifier() for part in module.split(".")):
                faults.append(Fault(key, "expected a module name or a path ending in .py", shown(module)))
    caps = _caps(DEFAULT_CAPS, tables.caps)
    faults += _over_caps("limits", tables.limits.given(), caps)
    for name, job in tables.jobs.items():
        own = _caps({}, job.caps)
        lower = caps | {limit: min(cap, caps.get(limit, cap)) for limit, cap in own.items()}
        faults += _over_caps(f"jobs.{name}.limits", job.limits.given(), lower)
    return faults


def _over_caps(where: str, limits: Mapping[str, Any], caps: Mapping[str, float]) -> list[Fault]:
    faults = []
    for name, cap in caps.items():
        if name in limits and _is_over(limits[name], cap):
            found = shown(NO_LIMIT if limits[name] is None else limits[name])
            faults.append(Fault(f"{where}.{name}", f"expected at most {cap:g}, its cap (raise the cap too)", found))
    return faults


def _is_over(limit: float | None, cap: float) -> bool:
    return limit is None or limit > cap


def _with_source(fault: Fault, sources: Mapping[str, str]) -> Fault:
    """Add who wrote the key, or something below it."""
    written = (who for name, who in sources.items() if name == fault.key or name.startswith(f"{fault.key}."))
    return replace(fault, source=next(written, ""))


def _caps(below: Mapping[str, float], table: CapsTable) -> dict[str, float]:
    return {name: cap for name, cap in (dict(below) | table.given()).items() if cap is not None}


def _is_path(module: str) -> bool:
    return module.endswith(".py") or "/" in module


def _pool(name: str, table: PoolTable, folder: str) -> PoolSpec:
    changes: dict[str, Any] = {} if table.workers is None else {"workers": table.workers}
    python = table.python
    if "/" in python:
        # Not resolved: the python of a virtual environment is a symbolic link that must be called by its own name.
        python = os.path.normpath(os.path.join(folder, os.path.expanduser(python)))
    return PoolSpec(
        name=name,
        modules=tuple(os.path.normpath(os.path.join(folder, m)) if _is_path(m) else m for m in table.module),
        spares=table.spares,
        jobs_per_worker_max=table.jobs_per_worker_max,
        start_method=table.start_method,
        python=python,
        nice=table.nice,
        env=table.env,
        folder=folder,
        **changes,
    )


def _settings(tables: FileTable, folder: str, proof: Any) -> Settings:
    shared = {f.name for f in fields(ServerSettings)} & {f.name for f in fields(Settings)}
    caps = _caps(DEFAULT_CAPS, tables.caps)
    limits = tables.limits.given()
    # A cap lowers a default that nobody wrote: otherwise every plain submission would be over it.
    lowered = {name: cap for name, cap in caps.items() if _is_over(getattr(Limits(), name), cap)}
    return Settings(
        pools=tuple(_pool(name, table, folder) for name, table in tables.pools.items()),
        limits=Limits().over(lowered | limits),
        caps=caps,
        jobs={n: JobSettings(job.limits.given(), _caps({}, job.caps)) for n, job in tables.jobs.items()},
        proof=proof,
        **{name: getattr(tables.server, name) for name in shared},
    )
