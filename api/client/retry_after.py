"""The header Retry-After of an answer, in both of its forms.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

WAIT_S_MAX = 86_400
"""Seconds that a server may ask for; more are as good as never, and no sleep takes some of them."""


def bounded_s(time: float, *, per_s: int = 1) -> float:
    """Return a time that a server told, in seconds: WAIT_S_MAX at most. `per_s`: how many of its unit a second has."""
    return min(time, WAIT_S_MAX * per_s) / per_s


def retry_after(response: httpx.Response) -> dict[str, Any]:
    """Return the fact `retry_after_s` if the answer has a Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return {"retry_after_s": bounded_s(float(value))}
    try:
        due = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return {}
    left_s = (due.replace(tzinfo=due.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return {"retry_after_s": bounded_s(max(0.0, left_s))}
