"""The tables of `killable.toml`: the keys, their types, defaults and documentation.

Runs in: supervisor, before it starts. Pure. The pydantic edge of `config`.

The string under a key is its documentation everywhere: in the JSON Schema, and in `killable config --example`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from killable.supervisor import settings
from killable.supervisor.configuration.command_tables import CommandTable, Count, Text, Truth, Variables
from killable.supervisor.configuration.table import Table
from killable.supervisor.http_server_settings import ClusterSettings, ServerSettings, TelemetrySettings, WebhookSettings
from killable.supervisor.jobs import node_labels
from killable.supervisor.jobs.job_queue import PRIORITY_MAX
from killable.workers.authoring.identifiers import KEY_NAME, OPERATION_PATH, TYPE_NAME
from killable.workers.authoring.limits_and_caps import LIMITS, Limit, Unit
from killable.workers.authoring.units import parse_bytes, parse_count, parse_seconds

NO_LIMIT = "none"
"""Removes a limit: TOML has no null."""


def _parsed(parse: Callable[[Any], float | int], expected: str) -> BeforeValidator:
    def validate(value: Any) -> float | int:
        try:
            if isinstance(value, bool):  # an int in Python, but its author does not mean an amount
                raise ValueError
            return parse(value)
        except (TypeError, ValueError):
            raise PydanticCustomError("expected", expected) from None

    return BeforeValidator(validate)


def _none_word(value: Any) -> Any:
    return None if value == NO_LIMIT else value


def _amount(number: str, text: str, example: str) -> WithJsonSchema:
    """Return the schema of an amount for editors, which check the text of the file before it is parsed."""
    return WithJsonSchema(
        {"anyOf": [{"type": number, "minimum": 0}, {"type": "string", "pattern": text}]} | {"examples": [example]}
    )


def _number_or_none(kind: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind}, {"const": NO_LIMIT}]})


_SECONDS = _parsed(parse_seconds, 'seconds, not negative: a number, or text like "5m"')
_BYTES = _parsed(parse_bytes, 'bytes, not negative: a whole number, or text like "1GiB"')
_COUNT = _parsed(parse_count, "a whole number, at least 1")
_SECONDS_TEXT = r"^([0-9.]+(ms|s|m|h|d)?)+$"
_BYTES_TEXT = r"^[0-9.]+ ?([kKmMgGtT][iI]?)?[bB]?$"
_SECONDS_FORM = _amount("number", _SECONDS_TEXT, "5m")
_BYTES_FORM = _amount("integer", _BYTES_TEXT, "1GiB")
_SECONDS_OR_NONE_FORM = _amount("number", f"{_SECONDS_TEXT}|^{NO_LIMIT}$", "5m")
_BYTES_OR_NONE_FORM = _amount("integer", f"{_BYTES_TEXT}|^{NO_LIMIT}$", "1GiB")
_COUNT_OR_NONE_FORM = WithJsonSchema(
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^[0-9]+$|^{NO_LIMIT}$"}]}
)

AtLeastOne = Annotated[int, Strict(), Field(ge=1)]
Seconds = Annotated[float, _SECONDS, Field(ge=0, allow_inf_nan=False), _SECONDS_FORM]
SomeSeconds = Annotated[float, _SECONDS, Field(gt=0, allow_inf_nan=False), _SECONDS_FORM]
Bytes = Annotated[int, _BYTES, Field(ge=0), _BYTES_FORM]
SomeBytes = Annotated[int, _BYTES, Field(gt=0), _BYTES_FORM]
SecondsOrNone = Annotated[SomeSeconds | None, BeforeValidator(_none_word), _SECONDS_OR_NONE_FORM]
AnySecondsOrNone = Annotated[Seconds | None, BeforeValidator(_none_word), _SECONDS_OR_NONE_FORM]
BytesOrNone = Annotated[SomeBytes | None, BeforeValidator(_none_word), _BYTES_OR_NONE_FORM]
CountOrNone = Annotated[Annotated[int, _COUNT] | None, BeforeValidator(_none_word), _COUNT_OR_NONE_FORM]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RateOrNone = Annotated[_Rate | None, BeforeValidator(_none_word), _number_or_none("number")]
_Priority = Annotated[int, Strict(), Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)]
PriorityOrNone = Annotated[_Priority | None, BeforeValidator(_none_word), _number_or_none("integer")]

Operations = dict[Annotated[str, Field(pattern=f"^{OPERATION_PATH}$")], SecondsOrNone]


def _texts(value: Any) -> Any:
    """Accept one text as a list of one. A pool of commands has none, which no file can say (`layers`)."""
    if value == ():
        return value
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) and item for item in listed):
        raise PydanticCustomError("expected", 'a module name or a path like "./my_jobs.py", or a list of them')
    return tuple(listed)


_TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts), WithJsonSchema(_TEXT_OR_TEXTS)]


def _account(value: Any) -> Any:
    is_name, is_number = isinstance(value, str) and "\0" not in value, isinstance(value, int) and 0 <= value < 2**32 - 1
    if isinstance(value, bool) or not (is_name or is_number):
        raise PydanticCustomError("expected", "a name, or a number")
    return value


def _processors(value: Any) -> Any:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise PydanticCustomError("expected", "a list of processors by their numbers, from 0")
    return tuple(sorted(set(value)))


_NAME_OR_NUMBER = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}
AccountName = Annotated[str | int, BeforeValidator(_account), WithJsonSchema(_NAME_OR_NUMBER)]
_NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
Processors = Annotated[tuple[int, ...], BeforeValidator(_processors), WithJsonSchema(_NUMBERS)]


def _label_condition(value: Any) -> Any:
    if not isinstance(value, str) or not node_labels.CONDITION.fullmatch(value):
        raise PydanticCustomError("expected", node_labels.EXPECTED)
    return value


_CONDITION_SCHEMA = {"type": "string", "pattern": f"^{node_labels.CONDITION.pattern}$"}
LabelSelector = dict[Text, Annotated[str, BeforeValidator(_label_condition), WithJsonSchema(_CONDITION_SCHEMA)]]


def _limit_form(limit: Limit) -> Any:
    """Return the type of a limit's value in the file."""
    if limit.unit is Unit.OPERATIONS:
        return Operations
    if limit.unit is Unit.COUNT and limit.most is not None:
        return Annotated[int, Strict(), Field(ge=1, le=limit.most)]
    return _FORMS[limit.unit, limit.may_be_none, limit.may_be_zero]


_FORMS: dict[tuple[Unit, bool, bool], Any] = {
    (Unit.SECONDS, True, False): SecondsOrNone,
    (Unit.SECONDS, True, True): AnySecondsOrNone,
    (Unit.SECONDS, False, True): Seconds,
    (Unit.BYTES, True, False): BytesOrNone,
    (Unit.BYTES, False, False): SomeBytes,
    (Unit.COUNT, True, False): CountOrNone,
}
"""The types of values by unit, whether None is allowed, and whether 0 is allowed."""


def _documentation(limit: Limit) -> str:
    """Return the documentation of a limit for the schema and the example file."""
    ends_as = " or ".join(limit.ends_as)
    return f"{limit.bounds[0].upper()}{limit.bounds[1:]}{f': {ends_as}' if ends_as else ''}."


def _cap_form(limit: Limit) -> Any:
    """Return the type of a limit's cap in the file. The cap of `operation_s` applies to each operation."""
    unit = Unit.SECONDS if limit.unit is Unit.OPERATIONS else limit.unit
    return _FORMS[unit, True, False]


if TYPE_CHECKING:

    class LimitsTable(Table):
        """Created below from LIMITS."""

    class CapsTable(Table):
        """Created below from LIMITS."""

else:
    LimitsTable = create_model(
        "LimitsTable",
        __base__=Table,
        __doc__="Limits of a job; an absent key keeps its default.",
        **{
            # The default is never read: a limit that is not written keeps the value of the layer below (`given`).
            name: (_limit_form(limit), Field(default=None, description=_documentation(limit)))
            for name, limit in LIMITS.items()
        },
    )
    CapsTable = create_model(
        "CapsTable",
        __base__=Table,
        __doc__='The largest values that a job may request (422 limit_over_cap); "none" removes a cap.',
        **{
            name: (_cap_form(limit), Field(default=None, description=f"Largest {name} that a job may request."))
            for name, limit in LIMITS.items()
        },
    )


_SETTING_FORMS: dict[Any, Any] = {
    str: Text,
    bool: Truth,
    tuple[str, ...]: tuple[Text, ...],
    Mapping[str, str]: LabelSelector,
    settings.Seconds: Seconds,
    settings.PositiveSeconds: SomeSeconds,
    settings.Bytes: Bytes,
    settings.PositiveBytes: SomeBytes,
    settings.Count: Count,
    settings.PositiveCount: AtLeastOne,
    settings.Share: Annotated[float, Field(ge=0, le=1)],
    settings.Port: Annotated[int, Strict(), Field(ge=0, le=65535)],
}
"""The form in the file by the type of a setting. A type that is absent is validated as it is."""


def _table_of(made_from: type[Any]) -> type[Table]:
    """Create the model of a table from the fields of a class of settings and the strings under them."""
    hints = get_type_hints(made_from, include_extras=True)
    members: dict[str, Any] = {
        each.name: (
            _SETTING_FORMS.get(hints[each.name], hints[each.name]),
            {} if each.default is MISSING else each.default,
        )
        for each in fields(made_from)
    }
    about = (made_from.__doc__ or "").partition(":")[0]
    table: type[Table] = create_model(made_from.__name__, __base__=Table, __doc__=f"{about}.", **members)
    table.documented_by = made_from
    return table


ServerTable = _table_of(ServerSettings)
ClusterTable = _table_of(ClusterSettings)
WebhooksTable = _table_of(WebhookSettings)
TelemetryTable = _table_of(TelemetrySettings)


def _paths(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise PydanticCustomError("expected", 'a list of paths, like ["./out"]')
    return tuple(value)


_LIST_OF_TEXTS = {"type": "array", "items": {"type": "string"}}
Paths = Annotated[tuple[Text, ...], BeforeValidator(_paths), WithJsonSchema(_LIST_OF_TEXTS)]


class SandboxTable(Table):
    """What jobs of a pool may not do to the rest of the machine; an empty table forbids nothing."""

    network: Truth = True
    """Whether jobs may use sockets; false: not even those of this machine."""
    shared_memory: Truth = True
    """Whether jobs share memory with other programs; false: each worker has a /dev/shm and System V IPC of its own."""
    write: Paths | None = None
    """Files and folders that jobs may write, beside their own temporary folder; absent: as their user may."""
    read: Paths | None = None
    """Files and folders that jobs may read, beside Python, its packages and the system's; absent: as their user may."""


class PoolTable(Table):
    """One pool: a zygote process that has imported the modules, and its workers."""

    module: Texts
    """The module to serve: its name, a path like "./my_jobs.py" (from the file's folder), or a list of these."""
    workers: AtLeastOne | None = None
    """Maximum number of busy workers; default: the number of cores, or of those in affinity."""
    spares: Count = 1
    """Number of warm, idle workers to keep beyond the busy ones."""
    jobs_per_worker_max: Count = 1
    """Number of jobs that a worker runs; 1: a fresh process per job, 0: no maximum."""
    start_method: Literal["fork", "spawn"] = "fork"
    """How workers start; "spawn" (exec) is for engines that start threads when loaded."""
    python: Text = ""
    """Name or path of the Python interpreter of the pool; empty: the server's own."""
    nice: Annotated[int, Strict(), Field(ge=0, le=19)] = 5
    """Niceness of the workers, so that the server always gets a core."""
    affinity: Processors = ()
    """Numbers of the processors that workers run on; empty: all."""
    core_dumps: Annotated[bool, Strict()] = False
    """Whether a crashed job dumps core, within the server's own RLIMIT_CORE; the job's end waits for the dump."""
    user: AccountName = ""
    """Name or number of the user that workers run as; needs a server run by root."""
    group: AccountName = ""
    """Name or number of the group that workers run as; empty: the user's own."""
    environment: tuple[Text, ...] = ("*",)
    """Which of the server's variables jobs get: names, or patterns with *, which match nothing that looks secret."""
    env: Variables = Field(default={})
    """Environment variables of the pool's processes; they override the server's own."""
    sandbox: SandboxTable = SandboxTable()
    """What its jobs may not do: network = false, shared_memory = false; write and read, lists of paths."""
    nodes: LabelSelector = Field(default={})
    """Labels of the machines of a cluster that have the pool, like { zone = "a" }; empty: all."""


class JobTable(Table):
    """Limits and caps of one job type."""

    limits: LimitsTable = LimitsTable()
    """Limits of this job type; they override those of its decorator."""
    caps: CapsTable = CapsTable()
    """Caps of this job type; none may be above the server's."""


class TenantTable(Table):
    """Bounds of one tenant, which is the name of an API key; "none" takes a bound away."""

    queue_jobs_max: CountOrNone = None
    """Maximum number of its waiting jobs (429 tenant_queue_full); default: half of server.queue_jobs_max."""
    queue_bytes_max: BytesOrNone = None
    """Maximum bytes of input of its waiting jobs; default: half of server.queue_bytes_max."""
    running_max: CountOrNone = None
    """Maximum number of its jobs that have a worker; others wait, also while workers are idle. Default: none."""
    keep_jobs: CountOrNone = None
    """Number of its ended jobs that stay readable; default: none but server.keep_jobs."""
    keep_bytes: BytesOrNone = None
    """Maximum memory that its ended jobs hold; default: none but server.keep_bytes."""
    streams_max: CountOrNone = None
    """Maximum number of its open streams (429 too_many_streams); default: none but server.connections_max."""
    submissions_per_s: RateOrNone = None
    """Submissions a second, ten seconds' worth of them at once (429 too_many_submissions). Default: none."""
    priority_max: PriorityOrNone = None
    """Highest priority of its jobs; a higher one is refused (422 priority_over_max). Default: none."""
    caps: CapsTable = CapsTable()
    """The largest limits that its jobs may have, if they are lower than those of the job type."""


_Name = Annotated[str, StringConstraints(pattern=f"^{TYPE_NAME}$")]
_KeyName = Annotated[str, StringConstraints(pattern=f"^{KEY_NAME}$")]


class FileTable(Table):
    """killable.toml"""

    server: ServerTable = ServerTable()  # type: ignore[valid-type]  # made from ServerSettings
    """HTTP, the bounds of the queue and of kept jobs, and the log."""
    cluster: ClusterTable = ClusterTable()  # type: ignore[valid-type]  # made from ClusterSettings
    """Other machines that run jobs, too."""
    webhooks: WebhooksTable = WebhooksTable()  # type: ignore[valid-type]  # made from WebhookSettings
    """Telling others how jobs ended."""
    telemetry: TelemetryTable = TelemetryTable()  # type: ignore[valid-type]  # made from TelemetrySettings
    """Traces and metrics over OpenTelemetry's protocol."""
    limits: LimitsTable = LimitsTable()
    """Default limits of all job types; a decorator and [jobs.NAME.limits] override them."""
    caps: CapsTable = CapsTable()
    """The largest values that a job may request; a larger one is refused (422 limit_over_cap)."""
    pools: dict[_Name, PoolTable] = Field(default={})
    """The modules to serve, and the workers of each pool."""
    jobs: dict[_Name, JobTable] = Field(default={})
    """Limits and caps of single job types."""
    commands: dict[_Name, CommandTable] = Field(default={})
    """Commands of the machine that are job types."""
    tenants: dict[_KeyName, TenantTable] = Field(default={})
    """Bounds of single tenants, and of all others: [tenants.default]."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors."""
    schema = FileTable.model_json_schema()
    # Limits have no default here: a limit that is not written keeps the value of the layer below.
    for table in ("LimitsTable", "CapsTable"):
        for key in schema["$defs"][table]["properties"].values():
            key.pop("default", None)
    for name, key in schema["properties"].items():
        key.pop("default", None)
        if name in ("pools", "jobs", "commands", "tenants"):
            key["additionalProperties"] = False  # names that do not match the pattern
    # Only a pool of commands may be without a module.
    schema["$defs"]["PoolTable"]["required"].remove("module")
    with_module = {"properties": {"pools": {"additionalProperties": {"required": ["module"]}}}}
    schema["anyOf"] = [{"required": ["commands"]}, with_module]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
