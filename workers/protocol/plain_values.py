"""The JSON value that stands for a value of Python that JSON does not have: dates, UUIDs, sets, dataclasses, bytes.

Runs in: any. Imports none of the modules that these types are in: a value of `decimal` means that it is loaded.

`authoring/value_types` has the other direction.
"""

from __future__ import annotations

import enum
import sys
from base64 import b64encode
from dataclasses import fields, is_dataclass
from typing import Any


def plain_value(value: Any) -> Any:
    """Return what JSON has for this value, whose parts may need the same. Raise TypeError: it has nothing for it, or
    ValueError: not for this one.

    It is the `default` of a JSONEncoder: values that JSON has are not for it.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:  # its items have no order
            return list(value)
    if hasattr(type(value), "__pydantic_validator__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    text = text_of(value)
    if text is None:
        raise TypeError("is not a JSON type")
    return text


def text_of(value: Any) -> str | None:
    """Return the text that stands for a date, a time, a duration, a Decimal, a UUID or a path; None: it is none.

    Raise ValueError for a Decimal that is no number.
    """
    if _is_of(value, "datetime", "timedelta"):
        return duration_text(value)
    if _is_of(value, "datetime", "date") or _is_of(value, "datetime", "time"):  # a datetime is a date, too
        text: str = value.isoformat()
        return text
    if _is_of(value, "decimal", "Decimal"):
        if not value.is_finite():
            raise ValueError(f"{value} is not a number")
        return str(value)
    return str(value) if _is_of(value, "uuid", "UUID") or _is_of(value, "pathlib", "PurePath") else None


def duration_text(duration: Any) -> str:
    """Return a timedelta in ISO 8601: `P1DT2H`, `PT0.5S`, `-PT1M`."""
    microseconds = (duration.days * 86400 + duration.seconds) * 10**6 + duration.microseconds
    sign, microseconds = "-" if microseconds < 0 else "", abs(microseconds)
    seconds, fraction = divmod(microseconds, 10**6)
    days, seconds = divmod(seconds, 86400)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = f"{seconds}.{fraction:06}".rstrip("0").rstrip(".")
    time = "".join(
        (f"{hours}H" if hours else "", f"{minutes}M" if minutes else "", f"{parts}S" if seconds or fraction else "")
    )
    day = f"{days}D" if days else ""
    return f"{sign}P{day}{'T' + time if time else ''}" if day or time else "PT0S"


def _is_of(value: Any, module: str, name: str) -> bool:
    """Return whether a value is an instance of a class, without importing its module."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
