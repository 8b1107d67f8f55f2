"""Input types: a JSON Schema together with the conversion of the values that it allows.

Runs in: zygote, worker. Pure. (`input_schema` makes input types from annotations.)

Schemas are JSON Schema, draft 2020-12. Every fault of an input is found, not only the first.
"""

from __future__ import annotations

import binascii
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json
from killable.workers.protocol.plain_values import plain_value

REQUIRED: Any = object()
"""The default of a member that has none."""


class NoJsonForm(ValueError):
    """No JSON value can represent an annotation; the message has the annotation and the reason."""


class InputFault(NamedTuple):
    """One fault of an input."""

    pointer: str
    """The JSON pointer of the faulty value (RFC 6901); empty for the whole input."""
    message: str


Convert = Callable[[Any, str, list[InputFault]], Any]
"""(JSON value, its pointer, faults) -> Python value. Appends to `faults`; the value is meaningless if it does."""


def plain(value: Any) -> Any:
    """Return the JSON value that represents a Python value. Raise TypeError or ValueError if there is none."""
    if is_dataclass(value) and not isinstance(value, type):  # as an input: without what its constructor does not take
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, enum.Enum) or not isinstance(value, (str, int, float, NoneType)):
        return plain(plain_value(value))
    dump_json(value)
    return value


class InputType(NamedTuple):
    """The JSON form of one annotation."""

    schema: dict[str, Any]
    convert: Convert
    plain: Callable[[Any], Any] = plain
    """Converts a Python value to JSON, for defaults."""


class Member(NamedTuple):
    """One member of an object: a parameter of a job, or a field of a dataclass or TypedDict."""

    name: str
    input_type: InputType
    default: Any = REQUIRED
    """REQUIRED: no default. The schema shows a default that has a JSON form."""


def object_of(
    members: Sequence[Member], build: Callable[..., Any], *, extra: str = "forbid", rest: InputType | None = None
) -> InputType:
    """Return the type of an object; `build` gets the members that were given, as keyword arguments.

    Unknown members are faults with `extra` = `forbid`, and dropped with `ignore`. With `rest` they are accepted, each
    of that type.
    """
    known = {member.name: (member.input_type.convert, join("", member.name)) for member in members}
    required = {member.name: None for member in members if member.default is REQUIRED}
    schema: dict[str, Any] = {"type": "object", "properties": {m.name: _with_default(m) for m in members}}
    if required:
        schema["required"] = list(required)
    schema["additionalProperties"] = (rest.schema or True) if rest is not None else extra == "ignore"

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if not isinstance(value, Mapping):
            return _misfit("an object", value, pointer, faults)
        before = len(faults)
        if not required.keys() <= value.keys():
            faults += [InputFault(join(pointer, name), "is required") for name in required if name not in value]
        if rest is None and extra == "forbid" and not value.keys() <= known.keys():
            why = f"is not known (known: {', '.join(known) or 'nothing'})"
            faults += [InputFault(join(pointer, name), why) for name in value if name not in known]
        given = {}
        for name, part in value.items():
            member = known.get(name)
            if member is not None:
                take, place = member
                given[name] = take(part, pointer + place, faults)
            elif rest is not None:
                given[name] = rest.convert(part, join(pointer, name), faults)
        if len(faults) > before:
            return None
        try:
            return build(**given)
        except (TypeError, ValueError) as error:  # a dataclass checks in its __post_init__
            faults.append(InputFault(pointer, str(error)))
            return None

    return InputType(schema, convert)


def array_of(items: InputType) -> InputType:
    """Return the type of an array of any length."""

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if not isinstance(value, (list, tuple)):
            return _misfit("an array", value, pointer, faults)
        return [items.convert(item, f"{pointer}/{index}", faults) for index, item in enumerate(value)]

    return InputType({"type": "array", **({"items": items.schema} if items.schema else {})}, convert)


def tuple_of(shapes: Sequence[InputType]) -> InputType:
    """Return the type of an array with one type per position; it converts to a tuple."""
    count = len(shapes)

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if not isinstance(value, (list, tuple)):
            return _misfit("an array", value, pointer, faults)
        if len(value) != count:
            faults.append(InputFault(pointer, f"must have {count} items, has {len(value)}"))
            return None
        pairs = enumerate(zip(shapes, value, strict=True))
        return tuple(input_type.convert(item, f"{pointer}/{index}", faults) for index, (input_type, item) in pairs)

    schema: dict[str, Any] = {"type": "array", "minItems": count, "maxItems": count}
    if shapes:
        schema["prefixItems"] = [input_type.schema for input_type in shapes]
    return InputType(schema, convert)


def mapping_of(values: InputType) -> InputType:
    """Return the type of an object with any members, all of one type."""

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if not isinstance(value, Mapping):
            return _misfit("an object", value, pointer, faults)
        return {key: values.convert(part, join(pointer, key), faults) for key, part in value.items()}

    return InputType({"type": "object", **({"additionalProperties": values.schema} if values.schema else {})}, convert)


def union_of(shapes: Sequence[InputType]) -> InputType:
    """Return the type of a value that fits one of several types; the first that fits converts it."""
    others = [input_type for input_type in shapes if input_type is not NULL]

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if value is None and len(others) < len(shapes):
            return None
        if len(others) == 1:  # the faults of the only other type are more helpful
            return others[0].convert(value, pointer, faults)
        for input_type in others:
            own: list[InputFault] = []
            converted = input_type.convert(value, pointer, own)
            if not own:
                return converted
        faults.append(InputFault(pointer, f"matches none of the {len(shapes)} allowed types"))
        return None

    return InputType({"anyOf": [input_type.schema for input_type in shapes]}, convert)


def choice_of(pairs: Sequence[tuple[Any, Any]]) -> InputType:
    """Return the type of a choice from (JSON value, Python value) pairs. Raise NoJsonForm."""
    for value, _ in pairs:
        if isinstance(value, enum.Enum) or not isinstance(value, (str, int, float, NoneType)):
            raise NoJsonForm(f"{value!r} is not a JSON value")
    # True == 1 in Python, but not in JSON.
    meanings = {(isinstance(value, bool), value): meaning for value, meaning in pairs}
    message = "must be one of " + ", ".join(dump_json(value).decode() for value, _ in pairs)

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if isinstance(value, (str, int, float, NoneType)) and (isinstance(value, bool), value) in meanings:
            return meanings[isinstance(value, bool), value]
        faults.append(InputFault(pointer, message))
        return None

    return InputType({"enum": [value for value, _ in pairs]}, convert)


_RANGED = {
    "integer": ("minimum", "maximum", ""),
    "string": ("minLength", "maxLength", "characters"),
    "array": ("minItems", "maxItems", "items"),
}


def within(input_type: InputType, bounds: range) -> InputType:
    """Return the type of an int in a range, or of a str or list whose length is in it.

    Raise NoJsonForm if the range cannot bound the type.
    """
    low, high, unit = _RANGED.get(str(input_type.schema.get("type")), ("", "", ""))
    if not low or bounds.step != 1 or not bounds or (unit and bounds[0] < 0):
        raise NoJsonForm(
            f"{bounds}: a range bounds an int, or the length of a str or list; it has step 1 and is not empty"
        )

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        before = len(faults)
        converted = input_type.convert(value, pointer, faults)
        if len(faults) > before:
            return None
        number = len(converted) if unit else converted
        if number not in bounds and unit:
            faults.append(InputFault(pointer, f"must have {bounds[0]} to {bounds[-1]} {unit}, has {number}"))
        elif number not in bounds:
            faults.append(InputFault(pointer, f"must be from {bounds[0]} to {bounds[-1]}, is {number}"))
        return converted

    return InputType({**input_type.schema, low: bounds[0], high: bounds[-1]}, convert)


def join(pointer: str, part: object) -> str:
    """Return the JSON pointer of a member or an item of the value at `pointer`."""
    return pointer + "/" + str(part).replace("~", "~0").replace("/", "~1")


def _same(value: Any) -> Any:
    return value


def _scalar(json_type: str, noun: str, accept: Callable[[Any], bool], make: Callable[[Any], Any] = _same) -> InputType:
    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        return make(value) if accept(value) else _misfit(noun, value, pointer, faults)

    return InputType({"type": json_type}, convert)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    # In JSON Schema 1.0 is an integer.
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _from_base64(value: Any, pointer: str, faults: list[InputFault]) -> Any:
    text = value.get("base64") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(text, str):
        return _misfit('an object with one member "base64", a string', value, pointer, faults)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        faults.append(InputFault(join(pointer, "base64"), f"is not base64: {error}"))
        return None


ANYTHING = InputType({}, lambda value, pointer, faults: value)
NULL = _scalar("null", "null", lambda value: value is None)
STRING = _scalar("string", "a string", lambda value: isinstance(value, str))
BOOLEAN = _scalar("boolean", "true or false", lambda value: isinstance(value, bool))
INTEGER = _scalar("integer", "an integer", _is_integer, int)
NUMBER = _scalar("number", "a finite number", _is_finite, float)
BYTES = InputType(
    {
        "type": "object",
        "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
        "required": ["base64"],
        "additionalProperties": False,
    },
    _from_base64,
)
"""The same form as in results: one job's output can be another's input."""

_NOUNS: tuple[tuple[Any, str], ...] = (
    (NoneType, "null"),
    (bool, "a boolean"),
    (str, "a string"),
    ((int, float), "a number"),
    ((list, tuple), "an array"),
    (Mapping, "an object"),
)


def _misfit(noun: str, value: Any, pointer: str, faults: list[InputFault]) -> None:
    found = next((name for kind, name in _NOUNS if isinstance(value, kind)), type(value).__name__)
    faults.append(InputFault(pointer, f"must be {noun}, is {found}"))


def _with_default(member: Member) -> dict[str, Any]:
    """Return a member's schema, with its default if that has a JSON form (REQUIRED has none)."""
    try:
        return {**member.input_type.schema, "default": member.input_type.plain(member.default)}
    except (TypeError, ValueError):
        return member.input_type.schema
