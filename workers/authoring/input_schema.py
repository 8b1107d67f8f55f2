"""Make an `InputType`, a JSON Schema with its conversion, from a parameter's annotation.

Runs in: zygote, worker (`pydantic_types` reads pydantic's annotations, if pydantic is installed).
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from killable.workers.authoring.file_type import FILE, UploadedFile
from killable.workers.authoring.input_types import (
    ANYTHING,
    BOOLEAN,
    BYTES,
    INTEGER,
    NULL,
    NUMBER,
    REQUIRED,
    STRING,
    InputType,
    Member,
    NoJsonForm,
    array_of,
    choice_of,
    mapping_of,
    object_of,
    tuple_of,
    union_of,
    within,
)
from killable.workers.authoring.pydantic_types import is_pydantics, pydantic_type
from killable.workers.authoring.value_types import set_of, value_type

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def input_type_of(members: Sequence[Member], *, extra: str = "forbid", rest: InputType | None = None) -> InputType:
    """Return the type of a job's whole input, a dict of keyword arguments. Its schema is a complete document."""
    input_type = object_of(members, dict, extra=extra, rest=rest)
    definitions: dict[str, Any] = {}

    def inline(schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        definitions.update(schema.get("$defs", {}))
        return {key: part for key, part in schema.items() if key != "$defs"}

    document = {
        "$schema": DIALECT,
        **input_type.schema,
        "properties": {name: inline(schema) for name, schema in input_type.schema["properties"].items()},
        "additionalProperties": inline(input_type.schema["additionalProperties"]),
    }
    if definitions:
        document["$defs"] = definitions
    return InputType(document, input_type.convert)


def annotation_type(annotation: Any, parameter: str = "") -> InputType:
    """Return the type of a parameter's annotation, which has been evaluated.

    Raise NoJsonForm for an annotation that no JSON value can represent.
    """
    try:
        if is_pydantics(annotation):
            input_type = pydantic_type(annotation, parameter)
            if input_type is not None:
                return input_type
        return _shape_of(annotation, ())
    except NameError as error:
        raise NoJsonForm(f"{name_of(annotation)} has an annotation that cannot be evaluated: {error}") from error


def name_of(annotation: Any) -> str:
    """Return an annotation nearly as its author wrote it."""
    return annotation.__qualname__ if isinstance(annotation, type) and not get_args(annotation) else repr(annotation)


_SCALARS: dict[Any, InputType] = {
    Any: ANYTHING,
    object: ANYTHING,
    None: NULL,
    NoneType: NULL,
    str: STRING,
    bool: BOOLEAN,
    int: INTEGER,
    float: NUMBER,
    bytes: BYTES,
}
_ARRAYS = frozenset({list, Sequence, Iterable})
_OBJECTS = frozenset({dict, Mapping})
_SETS: dict[Any, Any] = {set: set, frozenset: frozenset, Set: frozenset}
"""What converts the items."""


def _shape_of(annotation: Any, inside: tuple[Any, ...]) -> InputType:
    """`inside`: the classes that are being read, to detect one that contains itself."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if any(isinstance(part, UploadedFile) for part in arguments[1:]):
            return FILE
        input_type = _shape_of(arguments[0], inside)
        for bounds in arguments[1:]:
            # `Annotated[int, range(1, 101)]`, `Annotated[str, range(1000)]`: bounds without a library. Other metadata
            # is pydantic's, or a comment.
            input_type = within(input_type, bounds) if isinstance(bounds, range) else input_type
        return input_type
    if origin is Literal:
        return choice_of([(value, value) for value in arguments])
    if origin in (Union, UnionType):
        return union_of([_shape_of(argument, inside) for argument in arguments])
    kind = origin or annotation
    if not isinstance(kind, Hashable):
        raise _no_form(annotation)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind in _ARRAYS:
        return array_of(_shape_of(arguments[0], inside) if arguments else ANYTHING)
    if kind in _OBJECTS:
        if arguments and arguments[0] not in (str, Any):
            raise NoJsonForm(f"{name_of(annotation)}: the keys of a JSON object are str")
        return mapping_of(_shape_of(arguments[1], inside) if arguments else ANYTHING)
    if kind in _SETS:
        return set_of(_shape_of(arguments[0], inside) if arguments else ANYTHING, _SETS[kind])
    if kind is tuple:
        return _tuple(annotation, arguments, inside)
    return value_type(annotation) or _class(annotation, inside)


def _tuple(annotation: Any, arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> InputType:
    if annotation == tuple[()] or (arguments and arguments[-1] is not Ellipsis):
        return tuple_of([_shape_of(argument, inside) for argument in arguments])
    array = array_of(_shape_of(arguments[0], inside) if arguments else ANYTHING)
    return InputType(array.schema, lambda value, pointer, faults: tuple(array.convert(value, pointer, faults) or ()))


def _class(annotation: Any, inside: tuple[Any, ...]) -> InputType:
    """Return the type of a user's class, or of an alias of another annotation."""
    if isinstance(annotation, enum.EnumMeta):
        members: list[enum.Enum] = list(annotation)
        return choice_of([(member.value, member) for member in members])
    if isinstance(annotation, type) and (is_dataclass(annotation) or is_typeddict(annotation)):
        if annotation in inside:
            raise NoJsonForm(f"{name_of(annotation)} is recursive, which is not supported; use a dict")
        read = _typed_dict if is_typeddict(annotation) else _dataclass
        return read(annotation, (*inside, annotation))
    # NewType, and `type X = ...` of Python 3.12.
    meant = getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)
    if meant is None:
        raise _no_form(annotation)
    return _shape_of(meant, inside)


def _dataclass(record: Any, inside: tuple[Any, ...]) -> InputType:
    hints = get_type_hints(record, include_extras=True)
    members = []
    for field in fields(record):
        if field.init:
            default = field.default
            if default is MISSING and field.default_factory is MISSING:
                default = REQUIRED
            members.append(Member(field.name, _shape_of(hints[field.name], inside), default))
    return object_of(members, record)


# The qualifiers of a TypedDict's member, and whether it is required then; ReadOnly (Python 3.13) changes nothing.
_QUALIFIERS: dict[Any, bool | None] = {typing.Required: True, typing.NotRequired: False}
if hasattr(typing, "ReadOnly"):
    _QUALIFIERS[typing.ReadOnly] = None


def _typed_dict(record: Any, inside: tuple[Any, ...]) -> InputType:
    members = []
    for name, hint in get_type_hints(record, include_extras=True).items():
        # Not __required_keys__ alone: it misses the qualifiers under `from __future__ import annotations`.
        required = name in record.__required_keys__
        while get_origin(hint) in _QUALIFIERS:
            said = _QUALIFIERS[get_origin(hint)]
            required = required if said is None else said
            (hint,) = get_args(hint)
        members.append(Member(name, _shape_of(hint, inside), REQUIRED if required else MISSING))
    return object_of(members, dict)


def _no_form(annotation: Any) -> NoJsonForm:
    return NoJsonForm(
        f"{name_of(annotation)} has no JSON form (str, int, float, bool, None, bytes, list, dict, tuple, set, Literal,"
        " Enum, datetime, date, time, timedelta, Decimal, UUID, Path, InputFile, TypedDict, dataclass, unions of them"
        " and Any have one)"
    )
