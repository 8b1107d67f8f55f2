"""An input's faults in words, never with the value."""

from __future__ import annotations

from typing import Any

import pytest

from killable.api.http.input_faults import find_faults, validator_of
from killable.api.http.request_faults import FAULTS_MAX

SECRET = "s3cret" * 1000


@pytest.mark.row("A4")
@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "string"}, 5, "must be a string"),
        ({"type": ["string", "null"]}, 5, "must be a string or null"),
        ({"enum": ["a", "b"]}, SECRET, 'must be one of ["a","b"]'),
        ({"const": 1}, SECRET, "must be 1"),
        ({"minimum": 1}, 0, "must be at least 1"),
        ({"exclusiveMaximum": 1}, 1, "must be less than 1"),
        ({"multipleOf": 2}, 1, "must be a multiple of 2"),
        ({"maxLength": 10}, SECRET, "must have at most 10 characters"),
        ({"pattern": "^a+$"}, SECRET, "must match the pattern ^a+$"),
        ({"minItems": 1}, [], "must have at least 1 items"),
        ({"uniqueItems": True}, [SECRET, SECRET], "does not satisfy 'uniqueItems' of the schema"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, SECRET, "must be an integer or null"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, 0, "must be at least 1"),
        ({"anyOf": [{"minimum": 5}, {"multipleOf": 2}]}, 1, "matches none of the allowed types"),
        (
            {"anyOf": [{"type": ["integer", "null"]}, {"type": "boolean"}]},
            "",
            "matches none of the allowed types",
        ),
        ({"not": {"type": "string"}}, SECRET, "does not satisfy 'not' of the schema"),
    ],
)
def test_one_fault_in_words(schema: Any, value: Any, expected: str) -> None:
    faults = find_faults(validator_of({"properties": {"a": schema}}), {"a": value}, ("input",))
    assert faults == [{"in": "body", "pointer": "/input/a", "message": expected}]


@pytest.mark.row("A4")
def test_members_missing_and_unknown_are_each_named() -> None:
    schema = {
        "properties": {"a": {"properties": {"b": {}}, "required": ["b", "c"]}, "d": {}},
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        "required": ["d", "e"],
    }
    value = {"a": {}, "x-ok": 1, "f/~g": SECRET, "h" * 1000: SECRET}
    faults = {item["pointer"]: item["message"] for item in find_faults(validator_of(schema), value)}
    long = "/" + "h" * 99 + "…"
    assert faults == {
        **dict.fromkeys(["/a/b", "/a/c", "/d", "/e"], "is required"),
        **dict.fromkeys(["/f~1~0g", long], "is unknown"),
    }


def test_faults_inside_a_form_of_the_right_kind_are_told() -> None:
    form = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["c"]}
    schema = {"properties": {"a": {"anyOf": [form, {"type": "string"}]}}}
    faults = find_faults(validator_of(schema), {"a": {"b": "x"}})
    assert {(item["pointer"], item["message"]) for item in faults} == {
        ("/a/b", "must be an integer"),
        ("/a/c", "is required"),
    }


def test_faults_are_bounded() -> None:
    schema = validator_of({"properties": {"a": {"items": {"type": "string"}}}})
    assert len(find_faults(schema, {"a": list(range(100_000))})) == FAULTS_MAX + 1
