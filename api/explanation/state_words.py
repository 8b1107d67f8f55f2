"""How a job stands, in words: its cause, what it reported, how long it took.

Runs in: any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from killable.api.explanation.spelling import age_s, plain
from killable.workers.error_codes import LOST

PHASES = ("term_sent", "delivered", "acknowledged", "kill_sent", "exited", "reaped", "tree_empty", "slot_ready")
"""Of a certificate, in their order."""


def lasted_s(record: Mapping[str, Any]) -> float | None:
    """Return how long a job took, from its acceptance to its end."""
    if not record.get("ended_at"):
        return None
    ended = datetime.fromisoformat(record["ended_at"])
    return age_s(record["created_at"], ended)


def is_lost(record: Mapping[str, Any]) -> bool:
    """Return whether a job was lost with its server or its machine; then only its record is left."""
    return (record.get("error") or {}).get("code") in LOST


def ended_by(record: Mapping[str, Any]) -> str:
    """Return a state with its cause: `cancelled by user`, `timed_out timeout.run`, `failed exception`."""
    name = str(record.get("state") or record.get("status"))
    certificate, error = record.get("certificate") or {}, record.get("error") or {}
    by = certificate.get("by") or error.get("by")
    if name == "cancelled":
        return f"cancelled by {by}" if by else name
    return f"{name} ({error['code']})" if error.get("code") else name


def progress_text(reported: Mapping[str, Any] | None) -> str:
    """Return the last progress that a job reported: `45%, 9 of 20 chunks`, `9 chunks`; empty when it reported none."""
    if not reported or not isinstance(reported.get("done"), (int, float)):
        return ""
    done, total, unit = reported["done"], reported.get("total"), plain(reported.get("unit") or "")
    share_ = percent(reported)
    words = f"{_count(done)} of {_count(total)}" if isinstance(total, (int, float)) else _count(done)
    return f"{'' if share_ is None else f'{share_}%, '}{words} {unit}".rstrip()


def percent(reported: Mapping[str, Any] | None) -> int | None:
    """Return 0 to 100, or None if the job reports no total."""
    total = (reported or {}).get("total")
    done = (reported or {}).get("done")
    if not isinstance(total, (int, float)) or not isinstance(done, (int, float)) or total <= 0:
        return None
    return max(0, min(100, int(100 * done / total)))


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ") if float(number).is_integer() else f"{number:.3g}"
