"""Input types of the standard library's values: dates and times, UUID, Decimal, Path, set.

Runs in: zygote, worker. Pure. Each module is imported for the first annotation that needs it: few jobs do.

Their JSON is text that `protocol/plain_values` writes. The schema has a `format`, which the server checks, and a
`pattern` where Python reads less, or more, than others write in that format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from killable.workers.authoring.input_types import InputFault, InputType, array_of
from killable.workers.protocol.plain_values import plain_value

_DAY = r"\d{4}-\d{2}-\d{2}"
_TIME = r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]\d{2}:\d{2})?"
_DURATION = r"^-?P(?=.)(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d{1,6})?S)?)?$"
_DURATION_PATTERN = r"^-?P([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+([.][0-9]{1,6})?S)?)?$"
"""The same without look-aheads, which the server's linear engine does not know."""
_DECIMAL = r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,6})?$"
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_DURATION_UNITS_S = {"W": 7 * 86400, "D": 86400, "H": 3600, "M": 60, "S": 1}


def value_type(annotation: Any) -> InputType | None:
    """Return the type of an annotation that is one of these classes; None: it is none of them."""
    if not isinstance(annotation, type):
        return None
    make = _MAKERS.get((annotation.__module__.partition(".")[0], annotation.__name__))
    return None if make is None else make()


def set_of(items: InputType, make: Callable[[Any], Any]) -> InputType:
    """Return the type of an array without repetitions, which converts to a set (`make`: set or frozenset)."""
    array = array_of(items)

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        before = len(faults)
        converted = array.convert(value, pointer, faults)
        if len(faults) > before:
            return None
        try:
            found = make(converted)
        except TypeError as error:  # a list, or a dataclass that is not frozen
            faults.append(InputFault(pointer, f"its items cannot be in a set: {error}"))
            return None
        if len(found) < len(converted):
            faults.append(InputFault(pointer, "must not have an item twice"))
        return found

    return InputType(array.schema | {"uniqueItems": True}, convert)


def _text(noun: str, form: str, pattern: str, read: Callable[[str], Any]) -> InputType:
    fits = re.compile(pattern).fullmatch

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if isinstance(value, str) and fits(value):
            try:
                return read(value)
            except (ValueError, ArithmeticError) as error:
                faults.append(InputFault(pointer, f"must be {noun}: {error}"))
                return None
        faults.append(InputFault(pointer, f"must be {noun}"))
        return None

    return InputType({"type": "string", "format": form, "pattern": pattern}, convert, plain_value)


def _datetime() -> InputType:
    from datetime import datetime

    pattern = f"^{_DAY}[Tt ]{_TIME}$".replace(r"\d", "[0-9]")
    return _text("a date and time like 2026-12-01T09:30:00Z", "date-time", pattern, _upper(datetime.fromisoformat))


def _date() -> InputType:
    from datetime import date

    return _text("a date like 2026-12-01", "date", f"^{_DAY}$".replace(r"\d", "[0-9]"), date.fromisoformat)


def _time() -> InputType:
    from datetime import time

    return _text("a time like 09:30:00", "time", f"^{_TIME}$".replace(r"\d", "[0-9]"), _upper(time.fromisoformat))


def _upper(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(text.upper())


def _timedelta() -> InputType:
    noun = "a duration like PT1H30M (ISO 8601, without years and months)"
    return _text(noun, "duration", _DURATION_PATTERN, _read_duration)


def _read_duration(text: str) -> Any:
    from datetime import timedelta

    if not re.match(_DURATION, text):
        raise ValueError("it has no part")
    total_us = 0
    for number, fraction, unit in re.findall(r"([0-9]+)(?:[.]([0-9]+))?([WDHMS])", text):
        total_us += int(number) * _DURATION_UNITS_S[unit] * 10**6 + int((fraction or "0").ljust(6, "0"))
    return timedelta(microseconds=-total_us if text.startswith("-") else total_us)


def _uuid() -> InputType:
    from uuid import UUID

    return _text("a UUID", "uuid", _UUID, UUID)


def _path() -> InputType:
    from pathlib import Path

    return _text("a path", "path", r"^[^\x00]*$", Path)


def _decimal() -> InputType:
    from decimal import Decimal

    text = _text("a decimal number", "decimal", _DECIMAL, Decimal)

    def convert(value: Any, pointer: str, faults: list[InputFault]) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0:
            return Decimal(repr(value))  # the digits that were written, not those of the binary number
        return text.convert(value, pointer, faults)

    return InputType({"anyOf": [text.schema, {"type": "number"}]}, convert, plain_value)


_MAKERS: dict[tuple[str, str], Callable[[], InputType]] = {
    ("datetime", "datetime"): _datetime,
    ("datetime", "date"): _date,
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): _timedelta,
    ("uuid", "UUID"): _uuid,
    ("decimal", "Decimal"): _decimal,
    ("pathlib", "Path"): _path,
    ("pathlib", "PurePath"): _path,
    ("pathlib", "PosixPath"): _path,
}
"""By module and name. From Python 3.13 on `pathlib` is a package."""
