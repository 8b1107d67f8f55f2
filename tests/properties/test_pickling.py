"""Pickles in pieces: whichever of the large ones are elsewhere, the value is the same."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from killable.workers.protocol import pickling
from killable.workers.protocol.shared_memory import SealedInput

LARGE = st.integers(1, 200_000)
VALUES = st.recursive(
    st.one_of(
        st.integers(),
        st.builds(lambda size: b"b" * size, LARGE),
        st.builds(lambda size: bytearray(b"a" * size), LARGE),
        st.builds(lambda size: "ä" * size, LARGE),
        st.builds(lambda size: list(range(size // 10)), LARGE),
        st.builds(lambda size: {"array": np.arange(size // 8).tobytes(), "buffer": np.arange(size // 8)}, LARGE),
    ),
    lambda values: st.lists(values, max_size=4),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """Return a value in which arrays are lists."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@given(VALUES, st.integers(1, 100_000), st.randoms(use_true_random=False), st.booleans())
def test_pieces_elsewhere_make_the_same_value(value: Any, bytes_min: int, dice: Any, is_laid: bool) -> None:
    packed = pickling.pickled(value)
    pieces = packed.pieces_over(bytes_min)
    elsewhere = sorted(number for number in pieces if dice.random() < 0.6)
    packed.leave_out(elsewhere)
    content = packed.to_bytes()
    assert len(content) == packed.size
    others = [SealedInput.of(pieces[number]) for number in elsewhere]
    if is_laid:
        file = SealedInput.laid(packed.lay)
        with file.mapped() as found:
            assert found[:] == content and plain(pickling.loads(found, others)) == plain(value)
        file.close()
    else:
        assert plain(pickling.loads(content, others)) == plain(value)


def test_a_value_is_read_from_pieces_of_a_byte() -> None:
    value = {"text": "ä\n" * 50, "numbers": list(range(300)), "bytes": os.urandom(3000)}
    packed = pickling.pickled(value)
    packed.parts = [part[start : start + 1] for part in packed.parts for start in range(len(part))]
    packed.leave_out(range(0, len(packed.parts), 2))
    others = [SealedInput.of(part) for part in packed.parts[::2]]
    assert pickling.loads(packed.to_bytes(), others) == value


ATOMS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())


@given(st.lists(ATOMS, max_size=3), st.dictionaries(st.text(), ATOMS, max_size=3))
def test_a_small_call_is_pickled_as_any_other(args: list[Any], kwargs: dict[str, Any]) -> None:
    found = pickling.small_call(plain, tuple(args), kwargs)
    assert found == pickling.pickled({"function": plain, "args": tuple(args), "kwargs": kwargs}).to_bytes()


@pytest.mark.parametrize(
    ("function", "args"),
    [(lambda: None, ()), (len, ([],)), (len, ("x" * 5000,)), (type("Local", (), {}), ()), (print, (plain,))],
)
def test_another_call_is_no_small_one(function: Any, args: tuple[Any, ...]) -> None:
    assert pickling.small_call(function, args, {}) is None
