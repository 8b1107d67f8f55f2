"""The JSON Schema of a command's input, with the conversion of what it allows.

Runs in: supervisor (checks defaults) | zygote, worker. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from killable.workers.authoring.file_type import FILE
from killable.workers.authoring.input_schema import input_type_of
from killable.workers.authoring.input_types import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    REQUIRED,
    STRING,
    InputFault,
    InputType,
    Member,
    array_of,
    choice_of,
)
from killable.workers.commands.argument_template import Template
from killable.workers.commands.command_spec import CommandSpec, Parameter

ABSENT: Any = ...
"""The default of a member that may be left out."""
NO_NUL, NO_NUL_NO_DASH = r"^[^\x00]*$", r"^([^\x00-][^\x00]*)?$"
HAS_NUL, HAS_DASH = "must not have the character NUL", "must not begin with -, which programs take for an option"


def input_of(spec: CommandSpec) -> InputType:
    """Return the type of a command's whole input."""
    leading = Template(spec.argv).leading()
    members = []
    for name in spec.parameters:
        parameter = spec.parameter(name)
        default = REQUIRED if parameter.required else ABSENT
        if parameter.default is not None:
            default = parameter.default
        members.append(Member(name, parameter_type(parameter, begins=name in leading), default))
    return input_type_of(members)


def parameter_type(parameter: Parameter, *, begins: bool) -> InputType:
    """Return the type of one parameter. `begins`: an argument may begin with it."""
    no_dash = begins and not parameter.dash
    made = _OF_TYPE[parameter.type](parameter, no_dash)
    if parameter.description:
        return InputType({**made.schema, "description": parameter.description}, made.convert)
    return made


def _string(parameter: Parameter, no_dash: bool) -> InputType:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.length_max is not None:
        schema["maxLength"] = parameter.length_max
    if parameter.pattern:
        schema["pattern"] = _for_search(parameter.pattern)
    words = f"{HAS_DASH}, nor have the character NUL" if no_dash else HAS_NUL
    schema["allOf"] = [{"pattern": NO_NUL_NO_DASH if no_dash else NO_NUL, "errorMessage": words}]

    def why_not(value: str) -> str:
        if parameter.length_max is not None and len(value) > parameter.length_max:
            return f"must have at most {parameter.length_max} characters"
        if parameter.pattern and not re.fullmatch(parameter.pattern, value):
            return f"must match the pattern {parameter.pattern}"
        if no_dash and value.startswith("-"):
            return HAS_DASH
        return _why_no_text(value)

    return _enumerated(parameter, _checked(InputType(schema, STRING.convert), why_not), no_dash)


def _for_search(pattern: str) -> str:
    """Return what JSON Schema finds, which may be anywhere in a text, if the whole text matches a pattern: the author's
    own, if it is anchored, and nobody can doubt it.
    """
    escapes_and_sets = r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]"
    top = re.sub(escapes_and_sets, "x", pattern, flags=re.DOTALL)
    is_doubtful = re.search(r"\(\?[^:=!<P]", top)  # comments, and flags that allow some
    while (outer := re.sub(r"\([^()]*\)", "x", top)) != top:
        top = outer
    is_anchored = top.startswith("^") and top.endswith("$") and "|" not in top
    return pattern if is_anchored and not is_doubtful else f"^(?:{pattern})$"


def _why_no_text(value: str) -> str:
    if "\0" in value:
        return HAS_NUL
    try:
        value.encode()
    except UnicodeEncodeError:
        return "must be text that UTF-8 has: no half of a pair"
    return ""


def _number(parameter: Parameter, no_dash: bool) -> InputType:
    of_type = INTEGER if parameter.type == "integer" else InputType(NUMBER.schema, _as_given)
    least = 0 if no_dash and parameter.minimum is None else parameter.minimum
    schema = dict(of_type.schema)
    if least is not None:
        schema["minimum"] = least
    if parameter.maximum is not None:
        schema["maximum"] = parameter.maximum

    def why_not(value: float) -> str:
        if least is not None and value < least:
            return f"must be at least {least}"
        if parameter.maximum is not None and value > parameter.maximum:
            return f"must be at most {parameter.maximum}"
        if no_dash and math.copysign(1, value) < 0:
            return HAS_DASH  # -0.0
        return ""

    return _enumerated(parameter, _checked(InputType(schema, of_type.convert), why_not), no_dash)


def _as_given(value: Any, pointer: str, faults: list[InputFault]) -> Any:
    """Return a number as its author has sent it: programs may read 5 and not 5.0."""
    number = NUMBER.convert(value, pointer, faults)
    return value if isinstance(value, int) else number


def _boolean(parameter: Parameter, no_dash: bool) -> InputType:
    return BOOLEAN


def _file(parameter: Parameter, no_dash: bool) -> InputType:
    return FILE


def _array(parameter: Parameter, no_dash: bool) -> InputType:
    items = parameter_type(parameter.of_items, begins=no_dash)
    made = array_of(items)
    schema = dict(made.schema)
    if parameter.items_min:
        schema["minItems"] = parameter.items_min
    if parameter.items_max is not None:
        schema["maxItems"] = parameter.items_max

    def why_not(value: list[Any]) -> str:
        if len(value) < parameter.items_min:
            return f"must have at least {parameter.items_min} items"
        if parameter.items_max is not None and len(value) > parameter.items_max:
            return f"must have at most {parameter.items_max} items"
        return ""

    return _checked(InputType(schema, made.convert), why_not)


def _enumerated(parameter: Parameter, of_type: InputType, no_dash: bool) -> InputType:
    """Return the type of a choice, if there is one: the author has written it, dashes too."""
    return choice_of([(value, value) for value in parameter.enum]) if parameter.enum else of_type


def _checked(of_type: InputType, why_not: Callable[[Any], str]) -> InputType:
    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        before = len(faults)
        converted = of_type.convert(value, pointer, faults)
        if len(faults) == before and (why := why_not(converted)):
            faults.append(InputFault(pointer, why))
        return converted

    return InputType(of_type.schema, convert)


_OF_TYPE: Mapping[str, Callable[[Parameter, bool], InputType]] = {
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "file": _file,
    "array": _array,
}
