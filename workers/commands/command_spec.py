"""What `[commands.NAME]` of `killable.toml` says of one command.

Runs in: supervisor (writes it) | zygote, worker (read it). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from killable.workers.named_tuples import NamedTuple

SIGNALS = frozenset({"HUP", "INT", "QUIT", "ABRT", "ALRM", "TERM", "USR1", "USR2", "PIPE", "WINCH"})
"""The signals with which programs may be asked to end."""
ParameterType = Literal["string", "integer", "number", "boolean", "array", "file"]
Stdout = Literal["lines", "bytes", "result", "json"]


class Parameter(NamedTuple):
    """One member of a command's input."""

    type: ParameterType = "string"
    description: str = ""
    required: bool = True
    """Whether it must be given, if it has no default. Else its argument is left out."""
    default: Any = None
    """None: it has none."""
    enum: Sequence[Any] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    """Must match the whole text."""
    length_max: int | None = None
    items: Mapping[str, Any] | None = None
    """The members of the `Parameter` that each item of an array is."""
    items_min: int = 0
    items_max: int | None = None
    flag: str = ""
    """What a boolean puts into its place when it is true; when it is false its argument is left out."""
    dash: bool = False
    """Whether an argument may begin with its value although that begins with a dash: programs take it for an option."""
    filename: str = ""
    """The name of a file, in the job's folder; empty: it has the name that it was uploaded with."""

    @property
    def of_items(self) -> Parameter:
        """Return what each item of an array is."""
        return Parameter(**(self.items or {}))._replace(dash=self.dash)


class CommandSpec(NamedTuple):
    """One command, ready for JSON (`_asdict`)."""

    name: str
    argv: Sequence[str | Sequence[str]]
    """Texts with placeholders, `{width}`; a list of them is left out, or repeated, as one (`argument_template`)."""
    description: str = ""
    parameters: Mapping[str, Mapping[str, Any]] = {}
    """By name the members of a `Parameter`."""
    outputs: Mapping[str, str] = {}
    """By placeholder the name of a file in the job's folder that the command writes."""
    stdin: str = ""
    """The parameter that it reads from stdin; empty: nothing."""
    stdout: Stdout = "lines"
    ok_exit_codes: Sequence[int] = (0,)
    signal: str = "TERM"
    """The signal that asks it to end."""
    environment: Sequence[str] = ()
    """Names and patterns of the worker's environment variables that it gets."""
    env: Mapping[str, str] = {}

    def parameter(self, name: str) -> Parameter:
        return Parameter(**self.parameters[name])
