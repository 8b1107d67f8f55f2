"""An input of Python values as JSON: bytes as the schema says, and what has no form is named with its place."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from killable.api.client.input_encoding import PlainInput
from killable.workers.authoring.input_types import BYTES, array_of, object_of
from killable.workers.errors import Refused

ANY = {"base64": "/w=="}


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Point:
    x: int
    mode: Mode = Mode.FAST
    label: bytes = b"\xff"
    computed: int = field(default=3, init=False)


class Model(BaseModel):
    when: date
    points: list[int] = []


class Text(BaseModel):
    content: bytes


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes


def members_of(**members: Any) -> dict[str, Any]:
    return PlainInput.of(members).members


def spelled(value: Any, schema: Any, **definitions: Any) -> Any:
    return PlainInput.of({"a": value}).to_json({"properties": {"a": schema}, "$defs": definitions})["a"]


def refused(input: Mapping[str, Any], schema: Any = True) -> list[tuple[str, str]]:
    with pytest.raises(Refused) as caught:
        PlainInput.of(input).to_json({"additionalProperties": schema})
    assert caught.value.code == "invalid"
    return [(fault["pointer"], fault["message"]) for fault in caught.value.facts["faults"]]


def test_values_of_python_have_the_form_that_the_job_reads() -> None:
    assert members_of(level=Level.LOW, by={Mode.FAST: (1, 2.5, None, True)}, more=MappingProxyType({"a": "b"})) == {
        "level": 1, "by": {"fast": [1, 2.5, None, True]}, "more": {"a": "b"},
    }  # fmt: skip
    assert members_of(point=Point(1)) == {"point": {"x": 1, "mode": "fast", "label": b"\xff"}}
    assert members_of(model=Model(when=date(2026, 1, 2))) == {"model": {"when": "2026-01-02", "points": []}}
    assert members_of(text=Text(content=b"hi"), raw=Base64(content=b"\xff\xfe")) == {
        "text": {"content": "hi"}, "raw": {"content": "__4="},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (BYTES.schema, ANY),
        ({"anyOf": [{"type": "null"}, BYTES.schema]}, ANY),
        ({"$ref": "#/$defs/Raw"}, ANY),
        ({"type": "string", "format": "base64"}, "/w=="),
        ({"type": "string", "contentEncoding": "base64"}, "/w=="),
        ({"type": "string", "format": "base64url"}, "_w=="),
        (False, ANY),  # there is no such member: the server says so
    ],
)
def test_bytes_are_spelled_as_the_schema_says(schema: Any, expected: Any) -> None:
    for value in (b"\xff", bytearray(b"\xff"), memoryview(b"\xff")):
        assert spelled(value, schema, Raw=BYTES.schema) == expected


def test_bytes_are_found_at_every_depth() -> None:
    record = object_of([], dict).schema | {"properties": {"raw": BYTES.schema}}
    assert spelled([{"raw": b"\xff"}], array_of(BYTES).schema | {"items": record}) == [{"raw": ANY}]
    binary = {"type": "string", "format": "binary"}
    assert spelled([b"\xff", b"a"], {"prefixItems": [BYTES.schema], "items": binary}) == [ANY, "a"]
    assert spelled({"k": b"\xff"}, {"type": "object", "additionalProperties": BYTES.schema}) == {"k": ANY}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string"}, "is bytes, and the job takes text here: send value.decode(), or declare"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "is bytes, and the job takes text here"),
        ({"type": "integer"}, "is bytes, and the job takes integer here"),
        ({"enum": [1, 2]}, "is bytes, and the job takes one of certain values here"),
        (True, "is bytes, and the job does not say what it takes here: declare the parameter as bytes"),
        ({"type": "string", "format": "binary"}, "is not UTF-8 (byte 0), and pydantic's bytes travel as text"),
    ],
)
def test_bytes_where_the_job_takes_none_are_a_fault_with_the_way_out(schema: Any, why: str) -> None:
    ((pointer, message),) = refused({"a/b": b"\xff"}, schema)
    assert pointer == "/a~1b" and message.startswith(why)


def test_what_has_no_form_is_named_with_its_place_and_every_fault_is_told() -> None:
    faults = refused({"when": 1j, "a": [1, {"b": {2j}}], "n": float("nan"), "k": {(1, 2): 3}})
    assert [pointer for pointer, _ in faults] == ["/when", "/a/1/b/0", "/n", "/k"]
    assert faults[0][1].startswith("complex has no JSON form; these have one: str,")
    assert faults[2:] == [("/n", "nan is not JSON"), ("/k", "the key (1, 2) is not a JSON key")]
    ((pointer, message),) = refused({"t": [Text(content=b"\xff")]})
    assert pointer == "/t/0" and "ser_json_bytes='base64'" in message


def test_an_input_in_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(Refused, match="nested too deeply, or refers to itself"):
        PlainInput.of({"a": circle})
