"""configuration.md: every key of killable.toml, with its default and what it is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from killable.supervisor.configuration.command_tables import CommandTable, ParameterTable
from killable.supervisor.configuration.example import example
from killable.supervisor.configuration.schema import (
    ClusterSettings,
    PoolTable,
    SandboxTable,
    ServerSettings,
    TelemetrySettings,
    WebhookSettings,
    json_schema,
)
from killable.supervisor.configuration.values_in_force import spelled
from pages.limits import Limit, limits_table
from pages.markdown import code, document, fence, table


def page() -> str:
    tables = json_schema()["$defs"]
    return document(
        "killable.toml",
        INTRO,
        "## `[server]`",
        tables["ServerSettings"]["description"],
        table(KEYS, _rows(asdict(ServerSettings()), tables["ServerSettings"])),
        "## `[cluster]`",
        CLUSTER,
        table(KEYS, _rows(asdict(ClusterSettings()), tables["ClusterSettings"])),
        "## `[webhooks]`",
        tables["WebhookSettings"]["description"],
        table(KEYS, _rows(asdict(WebhookSettings()), tables["WebhookSettings"])),
        "## `[telemetry]`",
        tables["TelemetrySettings"]["description"],
        table(KEYS, _rows(asdict(TelemetrySettings()), tables["TelemetrySettings"])),
        "## `[limits]` and `[jobs.NAME.limits]`",
        LIMITS,
        table(
            KEYS,
            (
                (code(each.name), _limit_form(each.unit), code(_limit_default(each)), each.about)
                for each in limits_table()
            ),
        ),
        "## `[caps]` and `[jobs.NAME.caps]`",
        CAPS,
        table(
            ("Key", "Default"),
            ((code(each.name), code(_quoted(each.cap))) for each in limits_table() if each.cap != "none"),
        ),
        "## `[pools.NAME]`",
        POOLS,
        table(KEYS, _rows(_defaults_of(PoolTable) | {"sandbox": {}}, tables["PoolTable"])),
        "## `[pools.NAME.sandbox]`",
        SANDBOX,
        table(KEYS, _rows(_defaults_of(SandboxTable), tables["SandboxTable"])),
        "## `[commands.NAME]`",
        COMMANDS,
        table(KEYS, _rows(_defaults_of(CommandTable), tables["CommandTable"])),
        "## `[commands.NAME.parameters.NAME]`",
        PARAMETERS,
        table(KEYS, _rows(_defaults_of(ParameterTable), tables["ParameterTable"])),
        "## `[tenants.NAME]`",
        TENANTS,
        table(KEYS, _tenant_rows(tables["TenantTable"])),
        VARIABLES,
        "## The whole file",
        EXAMPLE,
        fence("\n".join(example()), "toml"),
    )


KEYS = ("Key", "Type", "Default", "What it is for")


def _rows(defaults: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, member in schema["properties"].items():
        required = name in schema.get("required", ()) or defaults[name] is PydanticUndefined
        default = "required" if required else _default(name, defaults[name])
        yield code(name), _form(name, member), default, member.get("description", "")


def _default(name: str, value: Any) -> str:
    return "" if value is None else "`{}`" if value == {} else code(spelled(name, value))


def _defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    return {name: each.get_default(call_default_factory=True) for name, each in model.model_fields.items()}


def _tenant_rows(schema: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, member in schema["properties"].items():
        forms = {"queue_bytes_max": "bytes", "keep_bytes": "bytes", "submissions_per_s": "number", "caps": "table"}
        about, _, default = member["description"].partition("efault: ")
        default = default.rstrip(".") if default else "none"
        yield (
            code(name),
            forms.get(name, "whole number"),
            default,
            about.removesuffix("; d").removesuffix(" D") or about,
        )


def _form(name: str, member: Mapping[str, Any]) -> str:
    """Return what a value may be, in a word or two."""
    if "enum" in member:
        return ", ".join(code(f'"{each}"') for each in member["enum"])
    if name == "module":
        return "text, or a list"
    if any("$ref" in each for each in (member, *member.get("anyOf", ()))):
        return "table"
    if name == "default":
        return "value, or a list"
    if name in ("user", "group"):
        return "name or number"
    for ending, form in (("_s", "seconds"), ("_bytes", "bytes"), ("_bytes_max", "bytes")):
        if name.endswith(ending):
            return form
    forms = [member, *member.get("anyOf", ())]
    kind = next((each["type"] for each in forms if each.get("type") not in (None, "null")), "")
    return {
        "string": "text",
        "boolean": "true or false",
        "number": "number",
        "integer": "whole number",
        "array": "list",
        "object": "table",
    }[kind]


def _limit_default(limit: Limit) -> str:
    return "{}" if limit.name == "operation_s" else _quoted(limit.server)


def _limit_form(unit: str) -> str:
    return {"count": "whole number", "seconds by operation": "table"}.get(unit, unit)


def _quoted(value: str) -> str:
    return value if value.replace(".", "").isdigit() else f'"{value}"'


assert {each.name for each in fields(ServerSettings)} == set(json_schema()["$defs"]["ServerSettings"]["properties"])

INTRO = """
`killable serve`, `check` and `config` read the file that `--config` or `KILLABLE_CONFIG` names, else
`./killable.toml`. Every key has a default, except `module` of a pool that no command has, and `argv` of a
command. `killable config --example` prints a whole
file; `killable config --schema` prints the JSON Schema for editors; `killable check` reports everything that is
wrong.

Seconds are a number or text such as `"250ms"`, `"5m"`, `"1h30m"`. Bytes are a number or text such as `"64KiB"`,
`"2GiB"`.

A value comes from the first of these that has it: an option of the command, a variable of the environment, the file,
the default.
"""
CLUSTER = """
Other machines that run jobs, too ([how-to](../how-to/cluster.md)).
"""
LIMITS = """
`[limits]` sets the defaults of all job types. The decorator of a job overrides it, and `[jobs.NAME.limits]` overrides
the decorator. `"none"` removes a limit. [Limits](limits.md) says more about each.
"""
CAPS = """
The largest values that a job may request: a submission over a cap is refused with [`limit_over_cap`](codes.md). Every
limit can have a cap. `"none"` removes one. `[jobs.NAME.caps]` is for one job type, and can only lower the cap of all.
A cap also lowers the limits of types that are over it. One that is not set does not: it is the value below, or the
limit of the job type if that is higher; for what a job takes of the machine it is the limit of the job type.
"""
POOLS = """
A pool is a set of worker processes that serve the job types of one module or of several. `NAME` is yours to choose.
Without any pool, and without a module on the command line, `killable serve` serves the built-in job types.
"""
TENANTS = """
`NAME` is the name of an API key, and `[tenants.default]` is for all others. A key that is absent has the value of
`[tenants.default]`, then the default below; `"none"` removes a bound. Operators have only the bounds of a table with
their own name. Without API keys, everybody is the tenant `default`, which has only the bounds that are written there.
[Share a server between teams](../how-to/share-a-server.md) says what each bound does.
"""
SANDBOX = """
What the jobs of a pool, and all that they start, may not do.
[Keep jobs from files and the network](../how-to/sandbox.md) says what each key needs of the machine, and what it does
not forbid.
"""
COMMANDS = """
A command of the machine that is a job type ([how-to](../how-to/commands.md)). Its limits and caps are in
`[jobs.NAME]`, as those of any job type.
"""
PARAMETERS = """
A member of the command's input. Each is used: as `{NAME}` in `argv`, or as `stdin`.
"""
VARIABLES = """
## Variables of the environment

Every key has a variable: its name in upper case behind `KILLABLE_`, with two underscores between the parts.
`KILLABLE_SERVER__PORT` is `port` in `[server]`, `KILLABLE_POOLS__TEXT__WORKERS` is `workers` in `[pools.text]`.

| Variable | Read by | Meaning |
| --- | --- | --- |
| `KILLABLE_CONFIG` | server | path of the configuration file |
| `KILLABLE_API_KEY` | server, command, clients | one more API key of the server; the key that a client sends |
| `KILLABLE_URL` | command, clients | address of the server, `http://HOST:PORT` or `unix:PATH` |
| `KILLABLE_PROOF` | server | `descendants` or `cgroup+descendants`; default: the stronger one that works here |
| `KILLABLE_CORRELATION_ID` | jobs | set for each job: its correlation id |
"""
EXAMPLE = "Every key with its default, as `killable config --example` prints it."
