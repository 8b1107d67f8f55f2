"""The tables of `killable.toml`: which keys there are, what each takes, and what is wrong, in words.

Runs in: supervisor, before it starts. Pure. The pydantic edge of `config`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from killable.workers.errors import KillableError
from killable.workers.units import parse_bytes, parse_seconds

NO_LIMIT = "none"
"""TOML has no null: this word takes a limit away."""

NAME = r"^[a-z][a-z0-9_-]{0,62}$"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what belongs there, what stands there, and who put it there."""

    key: str
    expected: str
    found: str
    source: str = ""

    def __str__(self) -> str:
        found = f"; found {self.found}" if self.found else ""
        return f"{self.key}: {self.expected}{found}{f' ({self.source})' if self.source else ''}"


class ConfigError(KillableError):
    """The configuration cannot be used. Fact: `faults`, all of them and not the first, as mappings."""

    code = "configuration"
    exit_code = 78

    @property
    def retryable(self) -> bool:
        return False

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> ConfigError:
        """Return the error that lists these faults, one line each."""
        headline = (
            "the configuration has a fault" if len(faults) == 1 else f"the configuration has {len(faults)} faults"
        )
        lines = [f"{headline}:", *(f"  {fault}" for fault in faults)]
        return cls("\n".join(lines), code=cls.code, faults=[asdict(fault) for fault in faults])


def _parsed(parse: Callable[[Any], float | int], expected: str) -> BeforeValidator:
    def validate(value: Any) -> float | int:
        try:
            if isinstance(value, bool):  # an int to Python, never a duration to its author
                raise ValueError
            return parse(value)
        except (TypeError, ValueError):
            raise PydanticCustomError("expected", expected) from None

    return BeforeValidator(validate)


def _none_word(value: Any) -> Any:
    return None if value == NO_LIMIT else value


_SECONDS = _parsed(parse_seconds, 'seconds, not negative: a number, or text like "5m"')
_BYTES = _parsed(parse_bytes, 'bytes, not negative: a whole number, or text like "1GiB"')

Text = Annotated[str, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
AtLeastOne = Annotated[int, Strict(), Field(ge=1)]
Seconds = Annotated[float, _SECONDS, Field(ge=0, allow_inf_nan=False)]
SomeSeconds = Annotated[float, _SECONDS, Field(gt=0, allow_inf_nan=False)]
SomeBytes = Annotated[int, _BYTES, Field(gt=0)]
SecondsOrNone = Annotated[SomeSeconds | None, BeforeValidator(_none_word)]
BytesOrNone = Annotated[SomeBytes | None, BeforeValidator(_none_word)]


def _texts(value: Any) -> Any:
    """Take one text for a list of one."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) and item for item in listed):
        raise PydanticCustomError("expected", 'a module name or a path like "./my_jobs.py", or a list of them')
    return tuple(listed)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`[server]`: the HTTP side, and the bounds of the queue and of what is kept."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Strict(), Field(ge=0, le=65535)] = 7833
    uds: Text = ""
    """Path of a Unix socket to listen on instead of host and port."""
    allowed_hosts: tuple[Text, ...] = ()
    cors_origins: tuple[Text, ...] = ()
    body_bytes_max: SomeBytes = 16 << 20
    result_inline_bytes_max: SomeBytes = 64 << 10
    queue_jobs_max: AtLeastOne = 1000
    queue_bytes_max: SomeBytes = 256 << 20
    keep_jobs: Count = 1000
    keep_bytes: Annotated[int, _BYTES, Field(ge=0)] = 512 << 20
    keep_s: Seconds = 3600.0
    ack_cpu_s: Seconds = 0.1
    unkillable_s: SomeSeconds = 10.0


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """Return what was written, without the defaults."""
        return self.model_dump(exclude_unset=True)


class LimitsTable(_Table):
    """`[limits]` and `[jobs.NAME.limits]`; what is not written stays as it was."""

    queue_s: SecondsOrNone = None
    start_s: SecondsOrNone = None
    run_s: SecondsOrNone = None
    grace_s: Seconds = 0.0
    ack_s: Annotated[Seconds | None, BeforeValidator(_none_word)] = None
    memory_bytes: BytesOrNone = None
    output_bytes: SomeBytes = 1


class CapsTable(_Table):
    """`[caps]` and `[jobs.NAME.caps]`: nobody may ask for more; `none` takes a cap away."""

    queue_s: SecondsOrNone = None
    start_s: SecondsOrNone = None
    run_s: SecondsOrNone = None
    grace_s: SecondsOrNone = None
    ack_s: SecondsOrNone = None
    memory_bytes: BytesOrNone = None
    output_bytes: BytesOrNone = None


class PoolTable(_Table):
    """`[pools.NAME]`."""

    module: Annotated[tuple[Text, ...], BeforeValidator(_texts)]
    workers: AtLeastOne | None = None
    spares: Count = 1
    jobs_per_worker_max: Count = 1
    start_method: Literal["fork", "spawn"] = "fork"
    python: Text = ""
    nice: Annotated[int, Strict(), Field(ge=0, le=19)] = 5
    env: dict[Text, Text] = {}


class JobTable(_Table):
    """`[jobs.NAME]`."""

    limits: LimitsTable = LimitsTable()
    caps: CapsTable = CapsTable()


_Name = Annotated[str, StringConstraints(pattern=NAME)]


class FileTable(_Table):
    """The whole file."""

    server: ServerSettings = ServerSettings()
    limits: LimitsTable = LimitsTable()
    caps: CapsTable = CapsTable()
    pools: dict[_Name, PoolTable] = {}
    jobs: dict[_Name, JobTable] = {}


def check(tree: Mapping[str, Any]) -> tuple[FileTable | None, list[Fault]]:
    """Return the checked tables, or None and every fault."""
    try:
        return FileTable.model_validate(tree), []
    except ValidationError as error:
        return None, [_fault(details) for details in error.errors(include_url=False)]


def dotted(path: Iterable[Any]) -> str:
    """Return a key as the file spells it."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """Return a value as the file would spell it, short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _fault(details: ErrorDetails) -> Fault:
    key = dotted(part for part in details["loc"] if part != "[key]")
    return Fault(key, _expected(details), "" if details["type"] == "missing" else shown(details["input"]))


def _expected(details: ErrorDetails) -> str:
    kind, bounds = details["type"], details.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key{_near(details['loc'])}"
    if kind == "string_pattern_mismatch":
        return "expected a name: a lower-case letter, then letters, digits, _ and - (63 at most)"
    if kind == "missing":
        return "missing; it is required"
    words = {
        "expected": details["msg"],
        "int_type": "a whole number",
        "string_type": "text",
        "tuple_type": "a list of texts",
        "model_type": "a table",
        "dataclass_type": "a table",
        "dict_type": "a table",
        "greater_than_equal": f"at least {bounds.get('ge')}",
        "greater_than": f"more than {bounds.get('gt')}",
        "less_than_equal": f"at most {bounds.get('le')}",
        "literal_error": f"{bounds.get('expected')}".replace("'", '"'),
    }
    return f"expected {words.get(kind, details['msg'])}"


def _known(path: tuple[Any, ...]) -> list[str]:
    """Return the keys that may stand where this one stands."""
    match path:
        case [_]:
            return list(FileTable.model_fields)
        case ["server", _]:
            return [field.name for field in fields(ServerSettings)]
        case ["pools", _, _]:
            return list(PoolTable.model_fields)
        case ["jobs", _, _]:
            return list(JobTable.model_fields)
        case _:
            return list(LimitsTable.model_fields)


def _near(path: tuple[Any, ...]) -> str:
    """Return a hint: the key that was meant, or the keys that there are."""
    known = _known(path)
    meant = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f" (did you mean {meant[0]}?)" if meant else f" (there are {', '.join(known)})"
