"""The server's log: one line per record on stderr, as text or JSON, without what must never be logged.

Runs in: supervisor.

    2026-11-26T20:46:06.123Z info killable.jobs cancelled job_id=job-3f2a91c0 type=spin by=user
    {"time": "2026-11-26T20:46:06.123Z", "level": "info", "logger": "killable.jobs", "event": "cancelled", ...}

One record is always one line: all text from jobs and clients is escaped. Tokens and printed lines are never logged.
Other text from jobs and clients is cut, or replaced (`redaction`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections import deque
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from killable.supervisor.telemetry.redaction import OWN, RedactingFormatter

Format = Literal["text", "json"]

RECORDS_WAITING_MAX = 10_000
"""Maximum number of records in memory while stderr blocks; more are dropped. A blocked log never delays a job."""
LAST_WORDS_S = 1.0
GATHER_S = 0.02
"""Time for which lines are collected before a write; a person does not notice it."""

_PLAIN = re.compile(r"[\w.:/+@~-]+", re.ASCII)


class Log:
    """The logging that `configure` has set up. `close` undoes it."""

    def __init__(self, handler: _Writer, logger_level: int) -> None:
        self._handler = handler
        self._before = logging.root.level, logging.getLogger(OWN).level
        logging.root.addHandler(handler)
        logging.root.setLevel(max(logger_level, logging.WARNING))
        logging.getLogger(OWN).setLevel(logger_level)

    def close(self) -> None:
        """Write the waiting records, for a second at most, and log nothing more. May be called again."""
        logging.root.removeHandler(self._handler)
        root_level, own_level = self._before
        logging.root.setLevel(root_level)
        logging.getLogger(OWN).setLevel(own_level)
        self._handler.close()


def configure(
    log_format: Format = "text", log_level: str = "info", redact: bool = False, stream: TextIO | None = None
) -> Log:
    """Write the records of this process to `stream` (stderr). The caller must `close` the returned Log at the end.

    `log_level` applies to killable's loggers; other libraries log warnings and worse. Raise ValueError for an unknown
    level.
    """
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ValueError(f"there is no log level {log_level!r}: debug, info, warning or error")
    formatter = _JsonLines(redact) if log_format == "json" else _TextLines(redact)
    writer = _Writer(stream or sys.stderr)
    writer.setFormatter(formatter)
    return Log(writer, level)


class _Writer(logging.Handler):
    """Formats records at once and writes them in a thread: a blocked terminal must not delay a kill.

    The thread collects lines before it writes: woken for each line, it would compete with the event loop for the
    interpreter lock, 0.1 ms a line.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._lines_waiting = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="killable-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if len(self._lines) >= RECORDS_WAITING_MAX:
                self._dropped += 1
                return
            if self._dropped:
                self._lines.append(self.format(_lost(self._dropped)))
                self._dropped = 0
            self._lines.append(self.format(record))
            if not self._lines_waiting.is_set():
                self._lines_waiting.set()
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._lines_waiting.set()
            self._thread.join(LAST_WORDS_S)  # if the stream blocks, the thread ends with the process
        super().close()

    def _write(self) -> None:
        while True:
            self._lines_waiting.wait()
            self._lines_waiting.clear()  # before `_closing` is checked: after it, the `set` of `close` could be lost
            is_last = self._closing.wait(GATHER_S)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                pass  # the reader is gone or the stream is closed
            if is_last:
                return


def _lost(number: int) -> logging.LogRecord:
    text = "records were dropped: stderr was blocked"
    record = logging.LogRecord(f"{OWN}.log", logging.WARNING, "", 0, text, None, None)
    record.dropped = number
    return record


class _TextLines(RedactingFormatter):
    """Formats a record as time, level, logger, event and fields (name=value). An indented traceback follows."""

    def __init__(self, redact: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self.redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _one_line(record.message)
        fields = (
            f"{name}={_shown(value)}"
            for name, value in record.__dict__.items()
            if name not in RESERVED_ATTRS and name != "message" and not name.startswith("_") and value not in (None, "")
        )
        return " ".join((super().formatMessage(record), *fields))

    def formatException(self, ei: Any) -> str:
        return "\n".join("    " + _one_line(line) for line in super().formatException(ei).splitlines())

    def formatStack(self, stack_info: str) -> str:
        return "\n".join("    " + _one_line(line) for line in stack_info.splitlines())


class _JsonLines(RedactingFormatter, JsonFormatter):
    """Formats a record as one JSON object: time, level, logger, event (other libraries: the text), and the fields."""

    def __init__(self, redact: bool) -> None:
        JsonFormatter.__init__(
            self,
            ("asctime", "levelname", "name", "message"),
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
        )
        self.redact = redact


def _one_line(text: str) -> str:
    """Escape all unprintable characters, including every kind of line end."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(value: Any) -> str:
    """Return a number or plain text as it is, any other value as JSON, so that its text cannot pass for a field."""
    if isinstance(value, (int, float)) or (isinstance(value, str) and _PLAIN.fullmatch(value)):
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=True)
