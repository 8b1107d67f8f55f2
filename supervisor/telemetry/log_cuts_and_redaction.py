"""What of the text of jobs and clients the log may contain: the beginning and the end, or with `redact` nothing.

Runs in: supervisor. `redact` also replaces the messages of exceptions and the texts of foreign libraries, which may
quote anything.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from killable.supervisor.clock import rfc_3339

OWN = "killable"
FOREIGN_TEXT_FIELDS = frozenset({"error", "reason", "tags", "detail", "command"})
"""Fields with text from a job or its modules (error, detail, command) or from a client (reason, tags)."""
FOREIGN_TEXT_CHARS_MAX = 1000
"""Limit of one field, kept from both ends: a traceback ends with its cause. The job's record has the whole text."""
REDACTED = "[redacted]"


class RedactingFormatter(logging.Formatter):
    """The common part of both formats: time, cut fields and redaction."""

    redact: bool

    def format(self, record: logging.LogRecord) -> str:
        return self.format_cleaned(self.cleaned(record))

    def cleaned(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy that has nothing in it which must not be written; other handlers get the same record."""
        record = _copied(record)
        if record.name.partition(".")[0] != OWN and self.redact:
            record.msg, record.args = f"{REDACTED} {record.module}:{record.lineno}", None
        for name in FOREIGN_TEXT_FIELDS & record.__dict__.keys():
            value = record.__dict__[name]
            record.__dict__[name] = REDACTED if self.redact and value else _cut(value)
        record.exc_text = None  # drop the text that another formatter has cached
        record.levelname = record.levelname.lower()
        return record

    def format_cleaned(self, record: logging.LogRecord) -> str:
        return super().format(record)

    def formatException(self, ei: Any) -> str:
        if not self.redact:
            return super().formatException(ei)
        lines, error = [], ei[1]
        while error is not None:
            lines.append(f"{type(error).__name__}: {REDACTED}")
            trace = error.__traceback__
            while trace is not None:
                code = trace.tb_frame.f_code
                lines.append(f"  {code.co_filename}:{trace.tb_lineno} in {code.co_name}")
                trace = trace.tb_next
            error = error.__cause__ or error.__context__
        return "\n".join(lines)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return rfc_3339(record.created)


def _copied(record: logging.LogRecord) -> logging.LogRecord:
    """Copy a record without its constructor, which would query thread, process and time again."""
    copy = logging.LogRecord.__new__(logging.LogRecord)
    copy.__dict__.update(record.__dict__)
    return copy


def _cut(value: Any) -> Any:
    if (
        isinstance(value, dict)
        and sum(len(str(key)) + len(str(each)) for key, each in value.items()) > FOREIGN_TEXT_CHARS_MAX
    ):
        value = json.dumps(value, default=str)
    if isinstance(value, str) and len(value) > FOREIGN_TEXT_CHARS_MAX:
        half = FOREIGN_TEXT_CHARS_MAX // 2
        return f"{value[:half]} … {value[-half:]}"
    return value
