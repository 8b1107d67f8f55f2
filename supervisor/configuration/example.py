"""The example file: a `killable.toml` that sets every key to its default, each with its documentation.

Runs in: any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from killable.supervisor.configuration.command_tables import POOL
from killable.supervisor.configuration.schema import json_schema
from killable.supervisor.configuration.values_in_force import spelled
from killable.supervisor.http_server_settings import (
    ClusterSettings,
    ServerSettings,
    TelemetrySettings,
    WebhookSettings,
)
from killable.supervisor.settings import TenantSettings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, cap_of
from killable.workers.commands.command_environment import ENVIRONMENT


def example() -> Iterator[str]:
    """Yield the lines of a `killable.toml` that sets every key to its default, each with its documentation."""
    schema = json_schema()
    yield '# killable.toml: every key with its default. Bytes also as numbers, seconds too; "none" takes a limit away.'
    for section, values in _defaults():
        table, about = _documented(schema, section)
        yield from ("", f"[{'.'.join(section)}]", f"# {about}")
        for name, value in values.items():
            what = " ".join(str(table[name].get("description", "")).split())
            # A cap that is set lowers decorators; one that is not follows from the limits of each type.
            written = f"# {name} = {value}" if section == ("caps",) else f"{name} = {value}"
            if max(len(written), 34) + len(what) > 117:
                yield from (f"# {what}", written)
            else:
                yield f"{written:<34} # {what}"


def _defaults() -> Iterable[tuple[tuple[str, ...], dict[str, str]]]:
    """Return the sections of the example, each with its keys and the spelled values."""
    limits, server = DEFAULT_LIMITS, ServerSettings()
    halves = {name: getattr(server, name) // 2 for name in ("queue_jobs_max", "queue_bytes_max")}
    tenants = {name: spelled(name, halves.get(name)) for name in TenantSettings._fields if name != "caps"}
    pool = {
        "module": '"./my_jobs.py"', "workers": "2", "spares": "1", "jobs_per_worker_max": "1",
        "start_method": '"fork"', "python": '""', "nice": "5", "affinity": "[]", "core_dumps": "false",
        "user": '""', "group": '""', "environment": '["*"]', "env": '{ OMP_NUM_THREADS = "1" }',
        "sandbox": "{ network = true }",
        "nodes": "{}",
    }  # fmt: skip
    command = {
        "argv": '["sort", ["-k", "{column}"], "{words}", "{reverse}"]', "description": '"Sort the lines of a file."',
        "outputs": "{}", "stdin": '""', "stdout": '"lines"', "ok_exit_codes": "[0]", "signal": '"TERM"',
        "environment": spelled("", ENVIRONMENT), "env": "{}", "pool": f'"{POOL}"',
    }  # fmt: skip
    parameters = {
        "column": {"type": '"integer"', "required": "false", "minimum": "1", "maximum": "9", "dash": "false"},
        "words": {"type": '"file"', "description": '"Lines of words."', "filename": '"words.txt"'},
        "reverse": {"type": '"boolean"', "default": "false", "flag": '"-r"'},
    }
    return (
        (("server",), {name: spelled(name, value) for name, value in asdict(server).items()}),
        (("cluster",), {name: spelled(name, value) for name, value in asdict(ClusterSettings()).items()}),
        (("webhooks",), {name: spelled(name, value) for name, value in asdict(WebhookSettings()).items()}),
        (("telemetry",), {name: spelled(name, value) for name, value in asdict(TelemetrySettings()).items()}),
        (("limits",), {name: spelled(name, value) for name, value in limits.items()}),
        (("caps",), {name: spelled(name, cap_of(name, value)) for name, value in limits.items()}),
        (("pools", "text"), pool),
        (("jobs", "split", "limits"), {"run_s": "30"}),
        (("jobs", "split", "caps"), {"run_s": '"2m"'}),
        (("commands", "sort"), command),
        *((("commands", "sort", "parameters", name), keys) for name, keys in parameters.items()),
        (("tenants", "dashboard"), tenants),
        (("tenants", "dashboard", "caps"), {"run_s": '"1h"'}),
    )


def _documented(schema: Mapping[str, Any], section: tuple[str, ...]) -> tuple[Mapping[str, Any], str]:
    """Return the keys of a section from the schema, and the description of the section."""
    names = {"server": "ServerSettings", "limits": "LimitsTable", "caps": "CapsTable", "pools": "PoolTable"}
    names |= {"tenants": "TenantTable", "cluster": "ClusterSettings", "webhooks": "WebhookSettings"}
    names |= {"telemetry": "TelemetrySettings"}
    if section[0] == "commands":
        table = schema["$defs"]["ParameterTable" if "parameters" in section else "CommandTable"]
        return table["properties"], table["description"]
    inner = {"jobs": "JobTable", "tenants": "TenantTable"}.get(section[0]) if len(section) == 3 else None
    name = section[-1] if inner else section[0]
    table = schema["$defs"][names[name]]
    about = (schema["$defs"][inner] if inner else schema)["properties"][name]
    return table["properties"], about.get("description", table["description"])
