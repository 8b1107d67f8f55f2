"""`[commands.NAME]`: a command of the machine as a job type, with the parameters of its input.

Runs in: supervisor, before it starts. Pure. `command_checks` finds what no single value shows.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from killable.supervisor.configuration.table import Table
from killable.workers.authoring.identifiers import TYPE_NAME
from killable.workers.commands.argument_template import NAME
from killable.workers.commands.command_environment import ENVIRONMENT
from killable.workers.commands.command_spec import SIGNALS

POOL = "commands"
"""The pool of commands that name none."""


def _text(value: str) -> str:
    if "\0" in value:  # no file, user, program or variable has it
        raise PydanticCustomError("expected", "text without the character NUL")
    return value


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise PydanticCustomError("expected", "the name of a variable, without =")
    return name


Text = Annotated[str, Strict(), AfterValidator(_text)]
Variables = dict[Annotated[Text, AfterValidator(_variable)], Text]
Count = Annotated[int, Strict(), Field(ge=0)]
Truth = Annotated[bool, Strict()]
_ParameterName = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


def _arguments(value: Any) -> Any:
    groups: list[Any] = value if isinstance(value, list) else []
    if not groups or not isinstance(groups[0], str):
        raise PydanticCustomError("expected", 'a list of texts that begins with the program, like ["sort", "{input}"]')
    for group in groups:
        texts: list[str] = [group] if isinstance(group, str) else group
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise PydanticCustomError("expected", 'a list of texts, or of lists of texts like ["-o", "{output}"]')
        if any("\0" in text for text in texts):
            raise PydanticCustomError("expected", "texts without the character NUL")
    return tuple(group if isinstance(group, str) else tuple(group) for group in groups)


def _file_name(value: Any) -> Any:
    bad = not isinstance(value, str) or not value or "/" in value or "\0" in value or value[0] in "-."
    if bad or len(value.encode()) > 255:
        raise PydanticCustomError("expected", 'the name of a file, without a folder, like "thumbnail.png"')
    return value


def _signal_name(value: Any) -> Any:
    name = value.upper().removeprefix("SIG") if isinstance(value, str) else ""
    if name not in SIGNALS:
        raise PydanticCustomError("expected", 'the name of a signal that asks it to end, like "INT"')
    return name


def _exit_codes(value: Any) -> Any:
    codes = value if isinstance(value, list) else []
    if not codes or not all(type(code) is int and 0 <= code <= 255 for code in codes):
        raise PydanticCustomError("expected", "a list of exit codes from 0 to 255, like [0, 1]")
    return tuple(dict.fromkeys(codes))


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PydanticCustomError("expected", "a number")
    return value


def _default(value: Any) -> Any:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(each, (str, int, float)) for each in listed):
        raise PydanticCustomError("expected", "text, a number, true or false, or a list of such values")
    return value


def _choices(value: Any) -> Any:
    if not isinstance(value, list) or not value or not all(isinstance(each, (str, int, float)) for each in value):
        raise PydanticCustomError("expected", 'a list of values, like ["jpg", "png"]')
    return tuple(value)


_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_SCALARS: dict[str, Any] = {"type": "array", "items": _SCALAR}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_GROUPS = {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _TEXTS]}}
_CODES = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 1}
Argv = Annotated[tuple[str | tuple[str, ...], ...], BeforeValidator(_arguments), WithJsonSchema(_GROUPS)]
FileName = Annotated[str, BeforeValidator(_file_name), WithJsonSchema({"type": "string"})]
SignalName = Annotated[str, BeforeValidator(_signal_name), WithJsonSchema({"type": "string"})]
ExitCodes = Annotated[tuple[int, ...], BeforeValidator(_exit_codes), WithJsonSchema(_CODES)]
Number = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Default = Annotated[Any, BeforeValidator(_default), WithJsonSchema({"anyOf": [_SCALAR, _SCALARS]})]
Choices = Annotated[tuple[Any, ...], BeforeValidator(_choices), WithJsonSchema(_SCALARS)]


class ItemTable(Table):
    """What each item of an array is."""

    type: Literal["string", "integer", "number", "file"] = "string"
    """string, integer, number or file."""
    enum: Choices = ()
    """The only values."""
    minimum: Number | None = None
    """Least number."""
    maximum: Number | None = None
    """Largest number."""
    pattern: Text = ""
    """Regular expression that the whole text must match."""
    length_max: Count | None = None
    """Most characters of a text."""


class ParameterTable(Table):
    """One member of the input of a command."""

    type: Literal["string", "integer", "number", "boolean", "array", "file"] = "string"
    """string, integer, number, boolean, array, or file: an uploaded file, whose path is the value."""
    description: Text = ""
    """What it is, for the schema of the input."""
    required: Truth = True
    """Whether it must be given, if it has no default; if not, its argument is left out without it."""
    default: Default | None = None
    """Its value if it is not given."""
    enum: Choices = ()
    """The only values."""
    minimum: Number | None = None
    """Least number."""
    maximum: Number | None = None
    """Largest number."""
    pattern: Text = ""
    """Regular expression that the whole text must match."""
    length_max: Count | None = None
    """Most characters of a text."""
    items: ItemTable | None = None
    """What each item of an array is, like { type = "integer", minimum = 0 }; default: text."""
    items_min: Count = 0
    """Fewest items of an array."""
    items_max: Count | None = None
    """Most items of an array."""
    flag: Text = ""
    """The argument that a boolean stands for when it is true; when it is false there is none. Empty: true or false."""
    dash: Truth = False
    """Whether an argument may begin with its value when that begins with -, which programs take for an option."""
    filename: FileName | None = None
    """Name of a file in the job's folder, if its name matters; default: the one that it was uploaded with."""


class CommandTable(Table):
    """One command of the machine that is a job type."""

    argv: Argv
    """The program and its arguments, with placeholders like "{width}"; a list among them is left out as one."""
    description: Text = ""
    """What it does, for those who submit it."""
    parameters: dict[_ParameterName, ParameterTable] = Field(default={})
    """The members of its input, by name."""
    outputs: dict[_ParameterName, FileName] = Field(default={})
    """Files that it writes, which are saved as the job's: placeholder and name, like { output = "thumbnail.png" }."""
    stdin: Text = ""
    """The parameter whose content it reads from stdin; empty: it has none."""
    stdout: Literal["lines", "bytes", "result", "json"] = "lines"
    """Whether stdout is streamed, as "lines" or "bytes", or in the result, as text ("result") or value ("json")."""
    ok_exit_codes: ExitCodes = (0,)
    """The exit codes with which the job has completed; any other one fails it with exit."""
    signal: SignalName = "TERM"
    """The signal that asks it to end, with its grace, when the job is stopped."""
    environment: tuple[Text, ...] = ENVIRONMENT
    """Which variables of its pool's environment it gets: names, or patterns with *."""
    env: Variables = Field(default={})
    """Environment variables of its own."""
    pool: Annotated[str, StringConstraints(pattern=f"^{TYPE_NAME}$")] = POOL
    """The pool whose workers run it; [pools.NAME] sets their number, user, sandbox and the rest."""
