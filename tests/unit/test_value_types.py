"""Values of the standard library as inputs: their schema, what the server refuses, what the worker makes of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from killable.api.client.input_encoding import PlainInput
from killable.api.http.input_faults import find_faults, is_bounded, validator_of
from killable.workers.authoring.input_schema import annotation_type, input_type_of
from killable.workers.authoring.input_types import InputFault, Member
from killable.workers.protocol.codec import CODECS


def both(annotation: Any, value: Any) -> tuple[list[dict[str, str]], Any, list[InputFault]]:
    """Return what the server finds wrong with a JSON value, what the worker makes of it, and its faults."""
    input_type = annotation_type(annotation, "a")
    schema = input_type_of([Member("a", input_type)]).schema
    assert is_bounded(schema), "a pattern that could hold up the loop"
    faults: list[InputFault] = []
    converted = input_type.convert(value, "", faults)
    return find_faults(validator_of(schema), {"a": value}), converted, faults


def survives(annotation: Any, value: Any) -> None:
    """Check that a result is a valid input, by both who write it, and means the same."""
    as_result = json.loads(CODECS["json"].encode_value(value))
    assert PlainInput.of({"a": value}).to_json({}) == {"a": as_result} or isinstance(value, Path)
    assert both(annotation, as_result) == ([], value, [])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (datetime, datetime(2026, 12, 1, 9, 30, tzinfo=UTC)),
        (datetime, datetime(2026, 12, 1, 9, 30, 0, 5)),
        (date, date(2026, 1, 2)),
        (time, time(9, 30)),
        (time, time(23, 59, 59, 999999, tzinfo=UTC)),
        (timedelta, timedelta()),
        (timedelta, timedelta(days=1, hours=2, microseconds=1)),
        (timedelta, -timedelta(minutes=5)),
        (Decimal, Decimal("1.10")),
        (Decimal, Decimal("-1E+5")),
        (uuid.UUID, uuid.UUID(int=5)),
        (Path, Path("/a/b c")),
        (set[int], {3, 1}),
        (frozenset[str], frozenset("ab")),
        (Set[date], frozenset({date(2026, 1, 2)})),
        (tuple[int, date], (1, date(2026, 1, 2))),
        (tuple[date, ...], (date(2026, 1, 2),)),
        (date | None, None),
        (dict[str, list[set[date]]], {"k": [{date(2026, 1, 2)}]}),
    ],
)
def test_a_result_is_an_input_that_means_the_same(annotation: Any, value: Any) -> None:
    survives(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value", "means"),
    [
        (datetime, "2026-12-01T09:30:00Z", datetime(2026, 12, 1, 9, 30, tzinfo=UTC)),
        (datetime, "2026-12-01t09:30:00z", datetime(2026, 12, 1, 9, 30, tzinfo=UTC)),
        (datetime, "2026-12-01 09:30", datetime(2026, 12, 1, 9, 30)),
        (timedelta, "P1W", timedelta(weeks=1)),
        (timedelta, "PT90M", timedelta(minutes=90)),
        (Decimal, 0.1, Decimal("0.1")),
        (Decimal, 3, Decimal(3)),
        (PurePosixPath, "a/../b", Path("a/../b")),
    ],
)
def test_what_else_is_taken(annotation: Any, value: Any, means: Any) -> None:
    if annotation is PurePosixPath:
        annotation = Path
    assert both(annotation, value) == ([], means, [])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (datetime, "2026-13-01T00:00:00"), (datetime, "2026-12-01"), (datetime, 5), (datetime, "2026-12-01T09:30\n"),
        (date, "2026-02-30"), (date, "20260102"), (date, "２０２６-01-02"), (date, 1),
        (time, "25:00"), (time, "9:30"),
        (timedelta, "P"), (timedelta, "PT"), (timedelta, "5m"), (timedelta, "P1Y"), (timedelta, ""), (timedelta, 5),
        (Decimal, "NaN"), (Decimal, ""), (Decimal, "1_0"), (Decimal, True),
        (uuid.UUID, "x"), (uuid.UUID, "{12345678-1234-1234-1234-123456789abc}"),
        (Path, "a\x00b"), (Path, 5),
        (set[int], [1, 1]), (set[int], ["a"]), (set[int], "ab"), (set[list[int]], [[1], [1]]),
    ],
)  # fmt: skip
def test_both_refuse_what_does_not_fit(annotation: Any, value: Any) -> None:
    refused, _, faults = both(annotation, value)
    assert refused and faults


def test_a_set_of_what_cannot_be_in_one_is_a_fault() -> None:
    assert "cannot be in a set" in both(set[list[int]], [[1]])[2][0].message


@given(st.timedeltas())
def test_every_duration_is_written_and_read(value: timedelta) -> None:
    survives(timedelta, value)


@given(st.datetimes(), st.decimals(allow_nan=False, allow_infinity=False))
def test_every_moment_and_number_is_written_and_read(moment: datetime, number: Decimal) -> None:
    survives(datetime, moment)
    assert both(Decimal, json.loads(CODECS["json"].encode_value(number)))[1] == number
