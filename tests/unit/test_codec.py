"""How values travel."""

from __future__ import annotations

import enum
import json
import math
import pickle
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from killable.workers.protocol import pickling
from killable.workers.protocol.codec import CODECS, Unserializable

JSON, PICKLE = CODECS["json"], CODECS["pickle"]

ODD_TEXTS = ["", "plain", 'quo"te', "back\\slash", "line\nend\r", "\u2028\u2029\x85", "\ud800 alone", "é 😀", "\x00"]


@dataclass
class Point:
    x: int
    more: list[Path]


class Text(str):
    pass


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.row("E12")
@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_a_text_token_is_one_line_of_ascii_that_reads_back(text: str) -> None:
    token = JSON.encode_token(text)
    assert token.isascii() and b"\n" not in token and b"\r" not in token
    assert json.loads(token) == {"text": text}
    assert JSON.encode_token(Text(text)) == token
    assert token == b'{"text":' + json.dumps(text).encode() + b"}"


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"\x00\xff", b'{"base64":"AP8="}'),
        (bytearray(b"ab"), b'{"base64":"YWI="}'),
        (memoryview(b"ab"), b'{"base64":"YWI="}'),
        (None, b'{"value":null}'),
        (1.5, b'{"value":1.5}'),
        ([1, {"a": [True]}], b'{"value":[1,{"a":[true]}]}'),
        ((1, 2), b'{"value":[1,2]}'),
        (Colour.RED, b'{"value":1}'),
    ],
)
def test_other_tokens(value: object, token: bytes) -> None:
    assert JSON.encode_token(value) == token


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        ({}, b"{}"),
        ("a\nb", b'"a\\nb"'),
        (b"ab", b'{"base64":"YWI="}'),
        ({"a": (1, None)}, b'{"a":[1,null]}'),
        ({"a": b"inside"}, b'{"a":{"base64":"aW5zaWRl"}}'),
        ([{3, 1}, frozenset(), Decimal("1.10")], b'[[1,3],[],"1.10"]'),
        (
            {"at": datetime(2026, 1, 2, tzinfo=UTC), "for": timedelta(hours=1)},
            b'{"at":"2026-01-02T00:00:00+00:00","for":"PT1H"}',
        ),
        (Point(1, [Path("/a")]), b'{"x":1,"more":["/a"]}'),
    ],
)
def test_results(value: object, data: bytes) -> None:
    assert JSON.encode_value(value) == data


class Opaque:
    pass


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "path", "type_name"),
    [
        (Opaque(), "$", "Opaque"),
        ({"a": [1, {2j}]}, "$.a[1][0]", "complex"),
        ([0.5, math.nan], "$[1]", "float"),
        ({"x": {"y": -math.inf}}, "$.x.y", "float"),
        ({"a": {("k", 1): 1}}, "$.a", "dict"),
        ([1, [2, [3, Opaque()]]], "$[1][1][1]", "Opaque"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(value: object, path: str, type_name: str) -> None:
    for encode in (JSON.encode_value, JSON.encode_token):
        with pytest.raises(Unserializable) as caught:
            encode(value)
        assert (caught.value.path, caught.value.type_name) == (path, type_name)
        assert (path in str(caught.value) or path == "$") and type_name in str(caught.value)


@pytest.mark.parametrize("value", [endless(), nested(100_000)], ids=["refers to itself", "deep"])
def test_a_value_without_end_is_refused_and_does_not_end_the_worker(value: object) -> None:
    with pytest.raises(Unserializable):
        JSON.encode_value(value)


def test_what_is_sent_can_be_read_by_json_of_the_other_side() -> None:
    for depth in (1, 10, 50):
        assert json.loads(JSON.encode_value(nested(depth))) == nested(depth)


@pytest.mark.parametrize(("payload", "value"), [(b"", {}), (b"{}", {}), (b'{"a":[1]}', {"a": [1]})])
def test_inputs(payload: bytes, value: dict[str, Any]) -> None:
    assert JSON.decode_input(payload) == value


@pytest.mark.parametrize("payload", [b"{", b"\xff"])
def test_an_input_that_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        JSON.decode_input(payload)


def test_pickle_takes_what_json_does_not() -> None:
    value = {"a": {1, 2}, "b": Colour.RED, "c": b"x"}
    assert pickling.loads(PICKLE.encode_value(value)) == pickle.loads(PICKLE.encode_token(value)) == value
    assert PICKLE.decode_input(PICKLE.encode_value({"f": len})) == {"f": len}
    again = pickling.loads(PICKLE.encode_value(lambda: Colour.RED))
    assert again() == Colour.RED


def test_what_cannot_be_pickled_is_unserializable_whatever_its_reduce_raises() -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            raise KeyError("no")

    for value in (threading.Lock(), Hostile()):
        with pytest.raises(Unserializable) as caught:
            PICKLE.encode_value(value)
        assert caught.value.type_name in ("lock", type(value).__qualname__)


def test_an_unserializable_survives_pickling() -> None:
    error = Unserializable("$.a", "set", "not a JSON type")
    assert (error.path, error.type_name, error.why) == ("$.a", "set", "not a JSON type")
