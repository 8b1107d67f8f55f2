"""Spell durations, sizes, numbers and ids for people.

Runs in: any machine. Returns text; prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from killable.workers.authoring import units

SHORT_CHARS = len("job-3f2a91c0")
"""Length of a displayed id: 32 bits of it. Every command accepts a unique prefix."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def duration(seconds: float | None) -> str:
    """Return a measured time: 0.4 ms, 12 ms, 1.3 s, 4m05s, 2h03m, 3d04h."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        ms = seconds * 1000
        return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def setting(seconds: float) -> str:
    """Return a time as in a setting: 0.5 s, 5 s, 10m, 2h, 100000 s."""
    for unit, unit_s in (("h", 3600), ("m", 60)):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:.0f}{unit}"
    if seconds % 1 == 0:
        return f"{seconds:.0f} s"
    return duration(seconds) if seconds > 10 else f"{seconds:.3g} s"


def milliseconds(ms: float) -> str:
    return duration(ms / 1000)


def size(count: int | None) -> str:
    """Return a size: 512 B, 12 KiB, 1.5 GiB; "-" for one that is not known."""
    return "-" if count is None else units.size(count)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 token`, `2 tokens`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}".replace(",", " ")


def short(job_id: str) -> str:
    """Return the part of an id that is displayed."""
    return job_id[:SHORT_CHARS]


def plain(text: object) -> str:
    """Return the text in one line, without control characters: it must not move a terminal's cursor."""
    return _CONTROL.sub("�", " ".join(str(text).split("\n")))


def age_s(moment: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds since an RFC 3339 time, never negative: two machines' clocks differ."""
    if moment is None:
        return None
    then = datetime.fromisoformat(moment)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())


def share(cpu: float | None) -> str:
    """Return a share of one core as a percentage."""
    return "-" if cpu is None else f"{cpu:.0%}"


def pid(worker: Mapping[str, Any]) -> str:
    """Return the process id of a worker, or a dash."""
    return str(worker.get("pid") or "-")
