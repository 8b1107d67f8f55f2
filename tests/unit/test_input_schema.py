"""Annotations to JSON Schema, and JSON values to what the annotations say."""

import collections.abc
import enum
import math
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, Union

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from killable.workers.authoring.input_schema import DIALECT, annotation_type, input_type_of
from killable.workers.authoring.input_types import REQUIRED, InputFault, Member, NoJsonForm


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Point:
    x: int
    y: int = 0
    label: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")


@dataclass
class Line:
    start: "Point"
    end: "Point"


class Options(TypedDict):
    depth: int
    name: NotRequired[str]
    strict: "NotRequired[bool]"


class Loose(TypedDict, total=False):
    depth: typing.Required[int]
    name: str


@dataclass
class Node:
    child: Optional["Node"] = None


@dataclass
class Unknown:
    value: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Pair(NamedTuple):
    first: int
    second: int


class Model(BaseModel):
    size: Annotated[int, Field(ge=1)]
    inner: "Model | None" = None


class Opaque:
    pass


UserId = NewType("UserId", int)
Bounded = Annotated[int, Field(ge=1, le=10)]

POINT_SCHEMA = {
    "type": "object",
    "properties": {
        "x": {"type": "integer"},
        "y": {"type": "integer", "default": 0},
        "label": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["x"],
    "additionalProperties": False,
}


def convert(annotation: Any, value: Any) -> Any:
    """Return what a value becomes; it must fit."""
    faults: list[InputFault] = []
    converted = annotation_type(annotation, "p").convert(value, "/p", faults)
    assert faults == []
    return converted


def faults_of(annotation: Any, value: Any) -> list[InputFault]:
    """Return what is wrong with a value."""
    faults: list[InputFault] = []
    annotation_type(annotation, "p").convert(value, "/p", faults)
    return faults


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        (list, {"type": "array"}),
        (list[Any], {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (typing.List, {"type": "array"}),  # noqa: UP006
        (collections.abc.Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (dict, {"type": "object"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (collections.abc.Mapping[str, Any], {"type": "object"}),
        (tuple, {"type": "array"}),
        (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {"type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        ),
        (Literal["a", 1, True, None], {"enum": ["a", 1, True, None]}),
        (Color, {"enum": ["red", "blue"]}),
        (Level, {"enum": [1, 2]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, list[str]], {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}),  # noqa: UP007
        (UserId, {"type": "integer"}),
        (Annotated[int, "a remark"], {"type": "integer"}),
        (Annotated[int, range(1, 101)], {"type": "integer", "minimum": 1, "maximum": 100}),
        (Annotated[str, range(9)], {"type": "string", "minLength": 0, "maxLength": 8}),
        (
            Annotated[list[Annotated[str, range(1, 3)]], range(1, 3)],
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 2},
                "minItems": 1,
                "maxItems": 2,
            },
        ),
        (Point, POINT_SCHEMA),
        (
            Line,
            {
                "type": "object",
                "properties": {"start": POINT_SCHEMA, "end": POINT_SCHEMA},
                "required": ["start", "end"],
                "additionalProperties": False,
            },
        ),
        (
            Options,
            {
                "type": "object",
                "properties": {"depth": {"type": "integer"}, "name": {"type": "string"}, "strict": {"type": "boolean"}},
                "required": ["depth"],
                "additionalProperties": False,
            },
        ),
        (
            Loose,
            {
                "type": "object",
                "properties": {"depth": {"type": "integer"}, "name": {"type": "string"}},
                "required": ["depth"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_schema(annotation: Any, schema: dict[str, Any]) -> None:
    assert annotation_type(annotation).schema == schema
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("annotation", "value", "becomes"),
    [
        (int, 3.0, 3),
        (float, 3, 3.0),
        (float, sys.float_info.max, sys.float_info.max),
        (Color, "red", Color.RED),
        (Level, 2, Level.HIGH),
        (list[Color], ["blue"], [Color.BLUE]),
        (dict[str, Level], {"a": 1}, {"a": Level.LOW}),
        (tuple[int, Color], [1, "red"], (1, Color.RED)),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[()], [], ()),
        (Color | None, None, None),
        (Color | None, "red", Color.RED),
        (int | str, "1", "1"),
        (str | Color, "red", "red"),
        (Color | str, "red", Color.RED),
        (float | int, 1, 1.0),
        (Literal[1, True], True, True),
        (Literal[1, True], 1, 1),
        (Annotated[int, range(1, 3)], 2, 2),
        (Annotated[list[Color], range(1, 3)], ["red"], [Color.RED]),
        (UserId, 7, 7),
        (Any, {"a": [None]}, {"a": [None]}),
        (Point, {"x": 1, "tags": ["a"]}, Point(1, tags=["a"])),
        (Line, {"start": {"x": 1}, "end": {"x": 2, "y": 3}}, Line(Point(1), Point(2, 3))),
        (Options, {"depth": 1}, {"depth": 1}),
    ],
)
def test_conversion(annotation: Any, value: Any, becomes: Any) -> None:
    converted = convert(annotation, value)
    assert converted == becomes
    assert type(converted) is type(becomes)
    assert Draft202012Validator(annotation_type(annotation).schema).is_valid(value)


@pytest.mark.parametrize(
    ("annotation", "value", "faults"),
    [
        (str, 1, [("/p", "must be a string, is a number")]),
        (int, "1", [("/p", "must be an integer, is a string")]),
        (int, True, [("/p", "must be an integer, is a boolean")]),
        (int, 1.5, [("/p", "must be an integer, is a number")]),
        (int, math.inf, [("/p", "must be an integer, is a number")]),
        (float, "1", [("/p", "must be a finite number, is a string")]),
        (float, True, [("/p", "must be a finite number, is a boolean")]),
        (float, math.nan, [("/p", "must be a finite number, is a number")]),
        (float, 10**400, [("/p", "must be a finite number, is a number")]),
        (bool, 1, [("/p", "must be true or false, is a number")]),
        (None, 0, [("/p", "must be null, is a number")]),
        (list[int], {}, [("/p", "must be an array, is an object")]),
        (list[int], ["a", 1, None], [
            ("/p/0", "must be an integer, is a string"),
            ("/p/2", "must be an integer, is null"),
        ]),
        (dict[str, int], [], [("/p", "must be an object, is an array")]),
        (dict[str, int], {"a/b~c": "x"}, [("/p/a~1b~0c", "must be an integer, is a string")]),
        (tuple[int, int], [1], [("/p", "must have 2 items, has 1")]),
        (tuple[int, int], [1, "2"], [("/p/1", "must be an integer, is a string")]),
        (tuple[int, int], "12", [("/p", "must be an array, is a string")]),
        (tuple[int, ...], None, [("/p", "must be an array, is null")]),
        (Color, "green", [("/p", 'must be one of "red", "blue"')]),
        (Color, ["red"], [("/p", 'must be one of "red", "blue"')]),
        (Literal["a", 1, None], True, [("/p", 'must be one of "a", 1, null')]),
        (int | None, "1", [("/p", "must be an integer, is a string")]),
        (int | bool | None, "1", [("/p", "matches none of the 3 allowed types")]),
        (Annotated[int, range(1, 101)], 101, [("/p", "must be from 1 to 100, is 101")]),
        (Annotated[int, range(1, 101)], "5", [("/p", "must be an integer, is a string")]),
        (Annotated[str, range(1, 3)], "", [("/p", "must have 1 to 2 characters, has 0")]),
        (Annotated[list[Annotated[str, range(1, 3)]], range(2)], ["abc"], [
            ("/p/0", "must have 1 to 2 characters, has 3"),
        ]),
        (Annotated[list[int], range(2)], [1, 2, 3], [("/p", "must have 0 to 1 items, has 3")]),
        (Point, 5, [("/p", "must be an object, is a number")]),
        (Point, {"y": "a", "z": 1}, [
            ("/p/x", "is required"),
            ("/p/z", "is not known (known: x, y, label, tags)"),
            ("/p/y", "must be an integer, is a string"),
        ]),
        (Point, {"x": -1}, [("/p", "x must not be negative")]),
        (Line, {"start": {"x": "a"}, "end": {"x": 1}}, [("/p/start/x", "must be an integer, is a string")]),
        (Options, {}, [("/p/depth", "is required")]),
        (str, b"", [("/p", "must be a string, is bytes")]),
    ],
)  # fmt: skip
def test_what_does_not_fit(annotation: Any, value: Any, faults: list[tuple[str, str]]) -> None:
    assert faults_of(annotation, value) == faults


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            bytearray,
            "bytearray has no JSON form (str, int, float, bool, None, bytes, list, dict, tuple, set, Literal,",
        ),
        (complex, "complex has no JSON form"),
        (Opaque, "Opaque has no JSON form"),
        (set[Opaque], "Opaque has no JSON form"),
        (Pair, "Pair has no JSON form"),
        (list[Opaque], "Opaque has no JSON form"),
        ([int], "[<class 'int'>] has no JSON form"),
        (dict[int, str], "dict[int, str]: the keys of a JSON object are str"),
        (Literal[b"a"], "b'a' is not a JSON value"),
        (Literal[Color.RED], "<Color.RED: 'red'> is not a JSON value"),
        (enum.Enum("Odd", {"A": (1, 2)}), "(1, 2) is not a JSON value"),
        (Node, "Node is recursive, which is not supported; use a dict"),
        (Unknown, "Unknown has an annotation that cannot be evaluated: name 'Nowhere' is not defined"),
        (Annotated[int, range(0)], "range(0, 0): a range bounds an int, or the length of a str or list; it has step 1"),
        (Annotated[int, range(0, 9, 2)], "range(0, 9, 2): a range bounds an int, or the length of a str or list;"),
        (Annotated[float, range(5)], "range(0, 5): a range bounds an int, or the length of a str or list;"),
        (Annotated[str | None, range(5)], "range(0, 5): a range bounds an int, or the length of a str or list;"),
        (Annotated[str, range(-1, 5)], "range(-1, 5): a range bounds an int, or the length of a str or list;"),
        (
            Annotated[int, range(5), Field(ge=1)],
            "a range cannot be combined with a type of pydantic; use Field(ge=..., le=",
        ),
        (list[Annotated[Opaque, Field()]], "Unable to generate pydantic-core schema"),
    ],
)
def test_what_has_no_json_form(annotation: Any, message: str) -> None:
    with pytest.raises(NoJsonForm) as raised:
        annotation_type(annotation)
    assert str(raised.value).startswith(message)


def test_pydantic_reads_what_is_pydantics() -> None:
    assert annotation_type(Bounded, "p").schema == {"type": "integer", "minimum": 1, "maximum": 10}
    assert convert(Bounded, 10) == 10
    assert faults_of(Bounded, 11) == [("/p", "Input should be less than or equal to 10")]
    assert faults_of(Bounded, "5") == [("/p", "Input should be a valid integer")]
    assert faults_of(list[Bounded], [1, 0]) == [("/p/1", "Input should be greater than or equal to 1")]
    assert faults_of(Bounded, Opaque()) == [("/p", "Object of type Opaque is not JSON serializable")]


def test_pydantic_converts_what_stands_beside_what_is_its_own() -> None:
    assert convert(dict[str, Color | Bounded], {"a": "red", "b": 3}) == {"a": Color.RED, "b": 3}
    assert convert(Model, {"size": 1, "inner": {"size": 2}}) == Model(size=1, inner=Model(size=2))
    assert faults_of(Model, {"size": 1, "inner": {"size": 0}}) == [
        ("/p/inner/size", "Input should be greater than or equal to 1")
    ]


def test_definitions_of_two_parameters_stand_side_by_side() -> None:
    members = [Member(name, annotation_type(Model, name)) for name in ("left", "right")]
    document = input_type_of(members).schema
    assert sorted(document["$defs"]) == ["left.Model", "right.Model"]
    assert document["properties"]["left"] == {"$ref": "#/$defs/left.Model"}
    Draft202012Validator.check_schema(document)
    validator = Draft202012Validator(document)
    assert validator.is_valid({"left": {"size": 1, "inner": {"size": 2}}, "right": {"size": 1}})
    assert not validator.is_valid({"left": {"size": 1, "inner": {"size": 0}}, "right": {"size": 1}})


def test_without_pydantic_the_plain_annotation_counts() -> None:
    code = """
import sys
sys.modules["pydantic"] = None
from typing import Annotated
from killable.workers.authoring.input_schema import annotation_type
class Ge: pass
print(annotation_type(Annotated[int, Ge()], "p").schema)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "{'type': 'integer'}\n"


def test_the_input_of_a_job() -> None:
    members = [
        Member("text", annotation_type(str)),
        Member("color", annotation_type(Color), Color.RED),
        Member("level", annotation_type(Level), Level.LOW),
        Member("point", annotation_type(Point), Point(1)),
        Member("opaque", annotation_type(Any), Opaque()),
        Member("required", annotation_type(bool), REQUIRED),
    ]
    assert input_type_of(members).schema == {
        "$schema": DIALECT,
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "color": {"enum": ["red", "blue"], "default": "red"},
            "level": {"enum": [1, 2], "default": 1},
            "point": {**POINT_SCHEMA, "default": {"x": 1, "y": 0, "label": None, "tags": []}},
            "opaque": {},  # a default that is not JSON is not shown (@job refuses it)
            "required": {"type": "boolean"},
        },
        "required": ["text", "required"],
        "additionalProperties": False,
    }


def test_unknown_members_may_be_ignored() -> None:
    shape = input_type_of([Member("text", annotation_type(str))], extra="ignore")
    assert shape.schema["additionalProperties"] is True
    faults: list[InputFault] = []
    assert shape.convert({"text": "a", "more": 1}, "", faults) == {"text": "a"}
    assert faults == []
