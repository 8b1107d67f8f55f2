"""Seconds and bytes as people write them."""

import math

import pytest

from killable.workers.authoring.units import parse_bytes, parse_count, parse_seconds


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (0.25, 0.25),
        ("90", 90.0),
        ("0.5", 0.5),
        (" 5m ", 300.0),
        ("250ms", 0.25),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
    ],
)
def test_seconds(written: object, seconds: float) -> None:
    parsed = parse_seconds(written)
    assert parsed == pytest.approx(seconds)
    assert type(parsed) is float


@pytest.mark.parametrize(
    "written",
    [
        "",
        "m",
        "5 minutes",
        "5M",
        "-1",
        "1e3",
        "1h-1m",
        "5m 30",
        "nan",
        "٣",
        -1,
        -0.5,
        math.inf,
        10**400,
        True,
        None,
        [5],
    ],
)
def test_what_is_no_number_of_seconds(written: object) -> None:
    with pytest.raises(ValueError, match=r'^expected seconds, not negative: a number, or text like "250ms", "90s"'):
        parse_seconds(written)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("64KiB", 65_536),
        ("1 GiB", 1 << 30),
        ("1gib", 1 << 30),
        ("2TiB", 2 << 40),
        ("10MB", 10_000_000),
        ("1.5GiB", 3 << 29),
        ("0.3B", 0),
        ("999999999999999TiB", 999_999_999_999_999 << 40),
    ],
)
def test_bytes(written: object, count: int) -> None:
    parsed = parse_bytes(written)
    assert parsed == count
    assert type(parsed) is int


@pytest.mark.parametrize(
    "written", ["", "GiB", "1G", "1Gib ibis", "-1", "1e6", -1, 1.5, 1.0, math.inf, True, None, [1], b"1", 10**400]
)
def test_what_is_no_number_of_bytes(written: object) -> None:
    with pytest.raises(ValueError, match=r'^expected bytes, not negative: a whole number, or text like "1GiB"'):
        parse_bytes(written)


def test_the_message_shows_what_was_found_and_not_all_of_it() -> None:
    with pytest.raises(ValueError, match=r"; got '5 minutes'$"):
        parse_seconds("5 minutes")
    with pytest.raises(ValueError) as raised:
        parse_bytes("x" * 10_000)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(("written", "count"), [(1, 1), ("512", 512), (" 7 ", 7)])
def test_counts(written: object, count: int) -> None:
    assert parse_count(written) == count


@pytest.mark.parametrize("written", [0, "0", -1, "-1", 1.0, "1.5", True, None, "many", "", "1e3", []])
def test_no_counts(written: object) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        parse_count(written)
