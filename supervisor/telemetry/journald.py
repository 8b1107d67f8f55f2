"""A record in journald's own protocol, with its fields (systemd.io/JOURNAL_NATIVE_PROTOCOL).

Runs in: supervisor. Pure; `linux/journal_socket` sends it. Plain lines on stderr have no fields; with these
`journalctl JOB_ID=...` finds the records of a job, `-p warning` those of a level, `MESSAGE_ID=...` those of an event.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS

from killable.supervisor.telemetry.log_vocabulary import EVENTS, message_id

IDENTIFIER = "killable"
_UNPREFIXED = frozenset({"job_id", "trace_id", "span_id"})
"""Fields that others write under the same name; the rest begins with KILLABLE_."""
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9_]")
NAME_CHARS_MAX = 64
"""journald drops a field with a longer name."""
FIELD_CHARS_MAX = 4096
"""A field of more is left out: the message has it. `serving` has the limits of every type."""
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s priorities of levels, the highest first; below them it is 7, debug."""


def priority(level: int) -> int:
    """Return the priority of a level of logging."""
    return next((number for least, number in PRIORITIES if level >= least), 7)


def datagram(record: logging.LogRecord, message: str) -> bytes:
    """Return a record in the protocol's form. `message` is what `journalctl` shows."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(priority(record.levelno)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "KILLABLE_LOGGER": record.name,
    }
    if str(record.msg) in EVENTS:
        fields |= {"KILLABLE_EVENT": record.msg, "MESSAGE_ID": message_id(record.msg)}
    for name, value in record.__dict__.items():
        if name in RESERVED_ATTRS or name in ("message", "asctime") or name.startswith("_") or value in (None, ""):
            continue
        text = _text(value)
        if len(text) <= FIELD_CHARS_MAX:
            upper = _NOT_IN_NAMES.sub("_", name.upper())
            fields[(upper if name in _UNPREFIXED else f"KILLABLE_{upper}")[:NAME_CHARS_MAX]] = text
    return _encoded(fields)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def _encoded(fields: Mapping[str, str]) -> bytes:
    parts = []
    for name, value in fields.items():
        content = value.encode("utf-8", "backslashreplace")
        if b"\n" in content:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(content).to_bytes(8, "little"), content))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), content))
    return b"".join(parts)
