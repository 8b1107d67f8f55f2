"""A command as a job type: what it takes, whether this machine has it, and its arguments from an input.

Runs in: zygote (the catalogue) | worker.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from killable.workers.authoring import registered_types
from killable.workers.authoring.context import Context
from killable.workers.authoring.input_types import InputFault, join
from killable.workers.authoring.registered_types import DeclarationError, InputError
from killable.workers.commands import command_execution
from killable.workers.commands.argument_template import LeadingDash, Template, Value
from killable.workers.commands.command_environment import environment_of
from killable.workers.commands.command_execution import Invocation
from killable.workers.commands.command_spec import CommandSpec, Parameter
from killable.workers.commands.parameter_types import HAS_DASH, input_of

ARGUMENT_BYTES_MAX = (128 << 10) - 1
"""MAX_ARG_STRLEN of the kernel, less the NUL behind it."""
_POINTER_BYTES = 8


class CommandJob:
    """Implements `registered_types.RegisteredJob`."""

    def __init__(self, spec: CommandSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.function = partial(command_execution.run, spec)
        self.retried: tuple[type[Exception], ...] = ()
        self._input = input_of(spec)
        self._template = Template(spec.argv)

    def bind(self, input: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Return the arguments of `command_execution.run`. Raise InputError with every fault."""
        faults: list[InputFault] = []
        members = self._input.convert(input, "", faults)
        if not faults:
            invocation = self._invocation(members, context, faults)
        if faults:
            raise InputError(self.name, [fault._asdict() for fault in faults])
        return {"invocation": invocation, "context": context}

    def describe(self) -> dict[str, Any]:
        why = why_not_here(self.spec)
        return {
            "name": self.name,
            "description": self.spec.description or f"Run {self.spec.argv[0]}.",
            "input_schema": self._input.schema,
            "limits": {},
            "operations": [],
            "streams": self.spec.stdout in ("lines", "bytes"),
            "on_loss": "fail",
            "available": not why,
            "unavailable_reason": why,
        }

    def _invocation(self, members: dict[str, Any], context: Context, faults: list[InputFault]) -> Invocation:
        given = {name: self.spec.parameter(name).default for name in self.spec.parameters} | members
        given = {name: value for name, value in given.items() if value is not None}
        links: dict[str, str] = {}
        values: dict[str, Value | list[Value]] = {
            name: Value(os.path.join(context.tmp, file), may_begin=True) for name, file in self.spec.outputs.items()
        }
        for name, value in given.items():
            parameter = self.spec.parameter(name)
            if parameter.filename:
                links[parameter.filename] = str(value)
                values[name] = Value(os.path.join(context.tmp, parameter.filename), may_begin=True)
            elif parameter.type == "array":
                values[name] = [_value(item, parameter.of_items) for item in value]
            elif not (parameter.flag and not value):
                values[name] = _value(value, parameter)
        try:
            argv = [argument.encode() for argument in self._template.fill(values)]
        except LeadingDash as error:
            faults.append(InputFault(join("", error.name), HAS_DASH))
            argv = []
        environment = environment_of(self.spec, context.tmp)
        self._check_size(argv, environment, given, faults)
        stdin = given.get(self.spec.stdin, "")
        return Invocation(argv, environment, links, stdin.encode() if isinstance(stdin, str) else str(stdin))

    def _check_size(
        self, argv: list[bytes], environment: Mapping[bytes, bytes], given: Mapping[str, Any], faults: list[InputFault]
    ) -> None:
        """Note a fault if the kernel would not take the arguments (execve(2))."""
        longest = max(map(len, argv), default=0)
        arguments = sum(len(each) + 1 + _POINTER_BYTES for each in argv)
        variables = sum(len(name) + len(value) + 2 + _POINTER_BYTES for name, value in environment.items())
        largest = max(given, key=lambda name: len(str(given[name])), default="")
        room = os.sysconf("SC_ARG_MAX") - variables - 4096
        if longest > ARGUMENT_BYTES_MAX:
            why = f"makes an argument of {longest:,} bytes; the kernel takes {ARGUMENT_BYTES_MAX:,}"
        elif arguments > room:
            why = f"makes arguments of {arguments:,} bytes; the kernel takes {room:,}"
        else:
            return
        faults.append(InputFault(join("", largest), f"{why}. Longer content can be a file, or stdin"))


def register_all(commands: Iterable[Mapping[str, Any]]) -> None:
    """Register commands as job types. Raise DeclarationError for the name of another one."""
    for members in commands:
        spec = CommandSpec(**members)
        if spec.name in registered_types.registered():
            raise DeclarationError(f"[commands.{spec.name}] has the name of a job type of a module of its pool")
        registered_types.register(CommandJob(spec))


def why_not_here(spec: CommandSpec) -> str:
    """Return why this machine cannot run a command; empty: it can."""
    program = str(spec.argv[0])
    path = spec.env.get("PATH", os.environ.get("PATH"))
    if shutil.which(program, path=path) is not None:
        return ""
    if "/" not in program:
        return f"{program} is not on PATH"
    return f"{program} is not executable" if os.path.exists(program) else f"{program} is not there"


def _value(value: Any, parameter: Parameter) -> Value:
    if parameter.flag:
        return Value(parameter.flag, may_begin=True)
    if isinstance(value, bool):
        return Value("true" if value else "false")
    return Value(str(value), may_begin=parameter.dash or bool(parameter.enum))
