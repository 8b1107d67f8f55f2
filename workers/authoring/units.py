"""Parse seconds, bytes and counts from text: "5m", "1h30m", "250ms"; "1GiB", "64KiB", "10MB"; "512". Write sizes.

Runs in: any.

The decorators, the configuration file and the command take the same spellings.
"""

from __future__ import annotations

import math
import re

_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}

# At most fifteen digits: a float holds them exactly, and nothing overflows.
# They are compiled (and kept by `re`) when the first text comes: a start that reads none saves 2 ms.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_PART = rf"({_NUMBER})(ms|s|m|h|d)"
_DURATION = rf"(?:{_NUMBER}(?:ms|s|m|h|d))+"
_COUNT = r"[0-9]{1,15}"
_SIZE = rf"({_NUMBER}) ?([A-Za-z]*)"


def parse_seconds(value: object) -> float:
    """Return seconds from a number, or from text such as "90", "5m", "1h30m" or "250ms".

    Raise ValueError for anything else, and for negative numbers, NaN and infinities.
    """
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(_NUMBER, text):
            return float(text)
        if re.fullmatch(_DURATION, text):
            return sum(float(number) * _SECONDS_PER_UNIT[unit] for number, unit in re.findall(_PART, text))
    elif _is_amount(value):
        return float(value)  # type: ignore[arg-type]  # _is_amount: an int or a float
    raise ValueError(
        f'expected seconds, not negative: a number, or text like "250ms", "90s", "5m", "1h30m"; got {_shown(value)}'
    )


def parse_bytes(value: object) -> int:
    """Return bytes from a whole number, or from text such as "1GiB", "64KiB", "10MB" or "4096".

    KiB, MiB, GiB and TiB are powers of 1024, kB, MB, GB and TB powers of 1000, in upper or lower case. Fractions of a
    byte are cut off. Raise ValueError for anything else and for negative numbers.
    """
    if isinstance(value, str):
        match = re.fullmatch(_SIZE, value.strip())
        if match is not None and match[2].lower() in _BYTES_PER_UNIT:
            number = float(match[1]) if "." in match[1] else int(match[1])
            return int(number * _BYTES_PER_UNIT[match[2].lower()])
    elif _is_amount(value) and isinstance(value, int):
        return value
    raise ValueError(
        f'expected bytes, not negative: a whole number, or text like "1GiB", "64KiB", "10MB"; got {_shown(value)}'
    )


def parse_count(value: object) -> int:
    """Return a whole number of at least 1, given as such or as text ("512"). Raise ValueError for anything else."""
    number = int(value) if isinstance(value, str) and re.fullmatch(_COUNT, value.strip()) else value
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise ValueError(f"expected a whole number, at least 1; got {_shown(value)}")


def size(count: int) -> str:
    """Return a number of bytes for people: 512 B, 12 KiB, 1.5 GiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1023.5 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def _is_amount(value: object) -> bool:
    """Return whether a value is a finite number that is not negative. bool does not count as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # an int that no float can hold
        return False


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
