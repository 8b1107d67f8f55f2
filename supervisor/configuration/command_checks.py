"""Finds faults of `[commands.NAME]`: programs that are not there, placeholders without a parameter, unused parameters.

Runs in: supervisor, before it starts. Looks at files, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.absolute_paths import in_home
from killable.supervisor.configuration.command_tables import CommandTable, ItemTable, ParameterTable
from killable.supervisor.configuration.faults import ConfigFault, shown
from killable.supervisor.linux.program_file import why_not_executable
from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.authoring.input_types import InputFault
from killable.workers.commands.argument_template import Template, names_of
from killable.workers.commands.command_spec import CommandSpec, Parameter
from killable.workers.commands.parameter_types import parameter_type

OF_TYPES = {
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "pattern": ("string",),
    "length_max": ("string",),
    "enum": ("string", "integer", "number"),
    "items": ("array",),
    "items_min": ("array",),
    "items_max": ("array",),
    "flag": ("boolean",),
    "filename": ("file",),
    "dash": ("string", "integer", "number", "array"),
}
"""The types of parameters that a key is for; a key that is not here is for every type."""


_OF_ENUM: Mapping[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "file": ()}


def spec_of(name: str, table: CommandTable, folder: Path) -> CommandSpec:
    """Return a command as workers run it. A program with a folder in its name is from the file's folder."""
    program, *arguments = table.argv
    assert isinstance(program, str)
    path = str(folder / in_home(program)) if "/" in program else program
    return CommandSpec(
        name=name,
        argv=[path, *(each if isinstance(each, str) else list(each) for each in arguments)],
        description=table.description,
        parameters={each: _given(parameter) for each, parameter in table.parameters.items()},
        outputs=table.outputs,
        stdin=table.stdin,
        stdout=table.stdout,
        ok_exit_codes=list(table.ok_exit_codes),
        signal=table.signal,
        environment=list(table.environment),
        env=table.env,
    )


def _given(parameter: ParameterTable) -> dict[str, Any]:
    given = parameter.model_dump(exclude_unset=True)
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {name: value for name, value in listed.items() if value is not None}


def command_faults(
    commands: Mapping[str, CommandTable], pools: Mapping[str, Mapping[str, str]], folder: Path,
    doubted: Collection[str], *, runs_here: bool,
) -> Iterator[ConfigFault]:  # fmt: skip
    """Yield every fault. `pools` has the `env` of each pool. `runs_here`: commands run on this machine, and not only
    on those of a cluster. `doubted` are keys that have a fault already: what they would say is not known.
    """
    for name, table in commands.items():
        spec = spec_of(name, table, folder)
        where = f"commands.{name}"
        if runs_here:
            yield from _program(where, spec, pools.get(table.pool, {}))
        if not any(key.startswith(f"{where}.") for key in doubted):
            yield from _placeholders(where, table, Template(spec.argv))
            yield from _stdin(where, table)
        yield from _file_names(where, table)
        leading = Template(spec.argv).leading()
        for each, parameter in table.parameters.items():
            yield from _parameter(f"{where}.parameters.{each}", parameter, spec.parameter(each), each in leading)


def _program(where: str, spec: CommandSpec, pool_env: Mapping[str, str]) -> Iterator[ConfigFault]:
    program = str(spec.argv[0])
    if Template([program]).names():
        expected = "expected a program without a placeholder: who submits a job does not choose it"
        yield ConfigFault(f"{where}.argv", expected, shown(program))
    elif why := why_not_executable(program, spec.env.get("PATH") or pool_env.get("PATH")):
        yield ConfigFault(f"{where}.argv", "expected a program that can be executed", f"{shown(program)}: {why}")


def _placeholders(where: str, table: CommandTable, template: Template) -> Iterator[ConfigFault]:
    known = [*table.parameters, *table.outputs]
    used = template.names()
    for name in used:
        if name not in known:
            near = f" ({did_you_mean(name, known)})" if known else ""
            expected = (
                f"expected [{where}.parameters.{name}] for the placeholder {{{name}}}{near}; the text itself is"
                f" {{{{{name}}}}}"
            )
            yield ConfigFault(f"{where}.argv", expected, "")
    for name in table.parameters:
        if name not in used and name != table.stdin:
            expected = f"expected to be used: {{{name}}} in argv, or stdin = {shown(name)}"
            yield ConfigFault(f"{where}.parameters.{name}", expected, "")
    for name in table.outputs:
        if name in table.parameters:
            yield ConfigFault(f"{where}.outputs.{name}", "expected a name that no parameter has", "")
        elif name not in used:
            yield ConfigFault(f"{where}.outputs.{name}", f"expected to be used: {{{name}}} in argv", "")
    for group in template.groups:
        arrays = [name for name in names_of(group) if name in table.parameters if _is_array(table, name)]
        if len(arrays) > 1:
            expected = "expected one array in an argument or a list of arguments, which is repeated for each item"
            yield ConfigFault(f"{where}.argv", expected, " and ".join(f"{{{name}}}" for name in arrays))
        for argument in group:
            flags = [part.name for part in argument if part.name in table.parameters and len(argument) > 1]
            for name in (name for name in flags if table.parameters[name].flag):
                yield ConfigFault(f"{where}.argv", f"expected {{{name}}} as an argument of its own: it has a flag", "")


def _is_array(table: CommandTable, name: str) -> bool:
    return table.parameters[name].type == "array"


def _stdin(where: str, table: CommandTable) -> Iterator[ConfigFault]:
    if not table.stdin:
        return
    parameter = table.parameters.get(table.stdin)
    if parameter is None:
        near = did_you_mean(table.stdin, table.parameters) if table.parameters else "there are none"
        yield ConfigFault(f"{where}.stdin", f"expected the name of a parameter ({near})", shown(table.stdin))
    elif parameter.type not in ("string", "file"):
        yield ConfigFault(f"{where}.stdin", "expected a parameter of type string or file", parameter.type)


def _file_names(where: str, table: CommandTable) -> Iterator[ConfigFault]:
    taken: dict[str, str] = {}
    inputs = {name: each.filename for name, each in table.parameters.items() if each.filename is not None}
    for name, file_name in (*inputs.items(), *table.outputs.items()):
        other = taken.setdefault(file_name, name)
        if other != name:
            key = f"{where}.outputs.{name}" if name in table.outputs else f"{where}.parameters.{name}.filename"
            yield ConfigFault(key, f"expected a name that no other file of the job has, as {other} has", file_name)


def _parameter(where: str, table: ParameterTable, parameter: Parameter, begins: bool) -> Iterator[ConfigFault]:
    for key, types in OF_TYPES.items():
        if key in table.model_fields_set and table.type not in types:
            yield ConfigFault(f"{where}.{key}", f"expected for {' and '.join(types)} only", f"type {table.type}")
            return
    yield from _bounds(where, table)
    if table.items is not None:
        yield from _bounds(f"{where}.items", table.items)
    least = (table.items if table.type == "array" else table) or ItemTable()
    if begins and not table.dash and least.minimum is not None and least.minimum < 0:
        expected = "expected at least 0, or dash = true: programs take an argument that begins with - for an option"
        yield ConfigFault(f"{where}.minimum", expected, f"{least.minimum}")
        return
    yield from _default(where, table, parameter, begins)


def _bounds(where: str, table: ParameterTable | ItemTable) -> Iterator[ConfigFault]:
    if table.pattern:
        try:
            re.compile(table.pattern)
        except re.error as error:
            yield ConfigFault(f"{where}.pattern", "expected a regular expression", f"{shown(table.pattern)}: {error}")
    if table.minimum is not None and table.maximum is not None and table.minimum > table.maximum:
        yield ConfigFault(f"{where}.maximum", f"expected at least the minimum, {table.minimum}", f"{table.maximum}")
    for value in table.enum:
        if isinstance(value, bool) or not isinstance(value, _OF_ENUM[table.type]):
            yield ConfigFault(f"{where}.enum", f"expected values of type {table.type}", shown(value))


def _default(where: str, table: ParameterTable, parameter: Parameter, begins: bool) -> Iterator[ConfigFault]:
    if table.default is None:
        return
    if table.type == "file":
        yield ConfigFault(f"{where}.default", "expected none: a file has no default", shown(table.default))
        return
    faults: list[InputFault] = []
    try:
        parameter_type(parameter, begins=begins).convert(parameter.default, "", faults)
    except re.error:
        return  # its pattern has a fault
    for fault in faults:
        yield ConfigFault(f"{where}.default", f"it {fault.message}", shown(table.default))


def pool_commands(commands: Mapping[str, CommandTable], folder: Path, pool: str) -> tuple[CommandSpec, ...]:
    """Return the commands of a pool."""
    return tuple(spec_of(name, table, folder) for name, table in commands.items() if table.pool == pool)
