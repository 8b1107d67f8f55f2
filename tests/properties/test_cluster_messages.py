"""Whatever comes in place of a message between head and node: it is refused with words, and by nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.garbled_messages import garble

from killable.supervisor.cluster import message_checks, messages

MEMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("epoch", "head", "incarnation", "orders", "order", "n", "answer", "seq", "items", "kind", "pools", "refused")
HEADERS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), MEMBERS, max_size=8)
CALLS = ("hello", "poll", "do", "adopt", "workers", "kill_worker", "leave")


@given(st.binary(max_size=200), st.integers())
def test_bytes_that_are_no_message_are_a_value_error(packed: bytes, seed: int) -> None:
    whole = messages.pack({"n": 1, "orders": [{"order": "run"}]}, [b"data"])
    for each in (packed, garble(random.Random(seed), whole)):
        try:
            header, blobs = messages.unpack(each)
        except ValueError:
            continue
        assert isinstance(header, dict) and all(isinstance(blob, bytes) for blob in blobs)


@settings(max_examples=40)
@given(HEADERS, st.sampled_from(CALLS))
def test_a_header_is_checked_or_refused(header: dict[str, Any], method: str) -> None:
    for check in (
        lambda: message_checks.check_call(method, header, []),
        lambda: message_checks.check_answer(method, header),
        lambda: message_checks.check_batch(header, []),
        lambda: message_checks.end_of(header),
    ):
        try:
            check()
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"state": "running"}, "an end in state 'running'"),
        ({"state": "failed"}, "an end in state 'failed' with code 'None'"),
        ({"state": "failed", "code": "cosmic_ray"}, "with code 'cosmic_ray'"),
        ({"state": "completed", "code": "exception"}, "an end in state 'completed'"),
        ({"state": "completed", "colour": "green"}, "colour: Extra inputs are not permitted"),
        ({"state": 1}, "state: Input should be a valid string"),
    ],
)
def test_an_end_is_one_that_can_be(end: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        message_checks.end_of({"outcome": end, "certificate": {}, "may_retry": False})
