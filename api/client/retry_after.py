"""The header Retry-After of an answer, in both of its forms.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx


def retry_after(response: httpx.Response) -> dict[str, Any]:
    """Return the fact `retry_after_s` if the answer has a Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return {"retry_after_s": float(value)}
    try:
        due = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return {}
    return {"retry_after_s": max(0.0, (due.replace(tzinfo=due.tzinfo or UTC) - datetime.now(UTC)).total_seconds())}
