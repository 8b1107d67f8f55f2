"""The server's log: one line per record on stderr, as text or JSON, without what must never be logged.

Runs in: supervisor.

    2026-11-26T20:46:06.123Z info killable.jobs cancelled job_id=job-3f2a91c0 type=spin by=user
    {"time": "2026-11-26T20:46:06.123Z", "level": "info", "logger": "killable.jobs", "event": "cancelled", ...}

One record is always one line: all text from jobs and clients is escaped. Tokens and printed lines are never logged.
Other text from jobs and clients is cut, or replaced (`log_cuts_and_redaction`). Noisy records are counted
(`log_sampling`). Where stderr is journald's, records go there with their fields (`journald`).
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import json
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from killable.supervisor import clock
from killable.supervisor.telemetry import journald
from killable.supervisor.telemetry.log_cuts_and_redaction import OWN, RedactingFormatter
from killable.supervisor.telemetry.log_sampling import PERIOD_S, Sampling
from killable.workers.named_tuples import NamedTuple

Format = Literal["text", "json"]

RECORDS_WAITING_MAX = 10_000
"""Maximum number of records in memory while stderr blocks; more are dropped. A blocked log never delays a job."""
LAST_WORDS_S = 1.0
GATHER_S = 0.02
"""Time for which lines are collected before a write; a person does not notice it."""
AGAIN_S = 1.0
"""Time until it is tried again to say how much was lost."""
LOOK_S = 1.0
"""While there is no room in a stream that does not block, it is looked after so long whether it was closed."""
STANDS_STILL_S = 5.0
"""What takes no record for so long is in trouble."""

_NO_FIELDS = frozenset((*RESERVED_ATTRS, "message"))
"""Attributes of every record. The library has a list of them."""
_PLAIN = re.compile(r"[\w.:/+@~-]+", re.ASCII)


WaitForRoom = Callable[[int, float], None]
"""Waits for room in a descriptor, for so many seconds at most."""


class JournaldConnection(Protocol):
    """The way to journald."""

    def send(self, data: bytes) -> None:
        """Send a record. May block. Raise OSError: it is not there."""

    def close(self) -> None: ...


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
    log_format: Format = "text", log_level: str = "info", redact: bool = False, stream: TextIO | None = None,
    *, burst: int = 0, to_journal: JournaldConnection | None = None, wait_for_room: WaitForRoom | None = None,
) -> Log:  # fmt: skip
    """Write the records of this process to `stream` (stderr). The caller must `close` the returned Log at the end.

    `log_level` applies to killable's loggers; other libraries log warnings and worse. `burst`: records of one noisy
    name in ten seconds; 0: all. `to_journal`: send them there instead; it is closed with the log. `wait_for_room`:
    called in the log's thread when a stream that does not block has no room; without it what finds none is lost. Raise
    ValueError for an unknown level.
    """
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ValueError(f"there is no log level {log_level!r}: debug, info, warning or error")
    lines: RedactingFormatter = _JsonLines(redact)
    if log_format != "json":
        lines = _TextLines(redact, _TEXT if to_journal is None else _TEXT_IN_JOURNAL)
    target: _Target = _Stream(stream or sys.stderr, wait_for_room)
    if to_journal is not None:
        target = _Journal(to_journal, target)
    writer = _Writer(target, Sampling(burst))
    writer.setFormatter(lines)
    return Log(writer, level)


def records_lost() -> int:
    """Return how many records of this process its logs could not take; 0 if there is none."""
    return sum(each.lost for each in _writers())


def trouble() -> str:
    """Return what is wrong with the log of this process now, or ""."""
    return next((text for each in _writers() if (text := each.trouble)), "")


def _writers() -> list[_Writer]:
    return [each for each in logging.root.handlers if isinstance(each, _Writer)]


class _Prepared(NamedTuple):
    """A record as it is written: to a stream, and to journald."""

    line: str
    datagram: bytes = b""


class _Target(Protocol):
    """Where records go."""

    def prepared(self, record: logging.LogRecord, line: str) -> _Prepared:
        """Return what is written of a record; `line` is what a formatter has made of it."""

    fault: str
    """Why the latest could not be written, or ""."""

    @property
    def rest(self) -> bytes:
        """Of a record that was written in part: it goes before the next one, or alone."""

    def write(self, prepared: list[_Prepared]) -> int:
        """Write it, or drop it where it cannot be written: return how many, which are the last. Blocks."""

    def close(self) -> None: ...


class _Stream:
    """A line for each record. It has no buffer: what that would keep of a failed write came later, or never."""

    def __init__(self, stream: TextIO, wait_for_room: WaitForRoom | None) -> None:
        self._stream, self._wait_for_room = stream, wait_for_room
        self._raw: io.FileIO | None = None
        with contextlib.suppress(OSError, ValueError):  # a stream in memory has no descriptor
            self._raw = io.FileIO(stream.fileno(), "w", closefd=False)
        self.rest = b""
        self.fault = ""

    def prepared(self, record: logging.LogRecord, line: str) -> _Prepared:
        return _Prepared(line, b"")

    def write(self, prepared: list[_Prepared]) -> int:
        records = [self.rest, *(f"{each.line}\n".encode("utf-8", "backslashreplace") for each in prepared)]
        data, written = b"".join(records), 0
        try:
            while written < len(data):
                written += self._written(data[written:])
        except (OSError, ValueError) as error:  # the disk is full, the reader is gone, the stream is closed
            self.fault = (getattr(error, "strerror", None) or str(error)).lower()
            ends = list(itertools.accumulate(map(len, records)))
            first = bisect.bisect_right(ends, written)
            is_begun = written > (ends[first - 1] if first else -1)
            self.rest = data[written : ends[first]] if is_begun else b""
            return len(records) - first - is_begun
        self.rest, self.fault = b"", ""
        return 0

    def _written(self, data: bytes) -> int:
        """Write some of it; return how much. Raise OSError, ValueError."""
        while True:
            if self._stream.closed:  # another file may have its descriptor by now
                raise ValueError("the stream is closed")
            if self._raw is None:
                self._stream.write(data.decode())
                self._stream.flush()
                return len(data)
            if (written := self._raw.write(data)) is not None:
                return written
            if self._wait_for_room is None:
                raise BlockingIOError("it would block")
            self._wait_for_room(self._raw.fileno(), LOOK_S)

    def close(self) -> None:
        pass


class _Journal:
    """A datagram for each record. While journald takes none they go to the stream, with their priorities
    (sd-daemon(3)): systemd keeps what is in that until journald is back.
    """

    def __init__(self, journal: JournaldConnection, instead: _Target) -> None:
        self._journal, self._instead, self.fault = journal, instead, ""

    def prepared(self, record: logging.LogRecord, line: str) -> _Prepared:
        mark = f"<{journald.priority(record.levelno)}>"
        return _Prepared(mark + line.replace("\n", f"\n{mark}"), journald.datagram(record, line))

    @property
    def rest(self) -> bytes:
        return self._instead.rest

    def write(self, prepared: list[_Prepared]) -> int:
        if not prepared:
            lost = self._instead.write([])
            self.fault = self._instead.fault
            return lost
        for number, each in enumerate(prepared):
            try:
                self._journal.send(each.datagram)
            except OSError:
                lost = self._instead.write(prepared[number:])
                self.fault = self._instead.fault
                return lost
        self.fault = ""
        return 0

    def close(self) -> None:
        self._journal.close()


class _Writer(logging.Handler):
    """Formats records at once and writes them in a thread: a blocked terminal must not delay a kill.

    The thread collects lines before it writes: woken for each line, it would compete with the event loop for the
    interpreter lock, 0.1 ms a line.
    """

    def __init__(self, target: _Target, sampling: Sampling) -> None:
        super().__init__()
        self._target, self._sampling = target, sampling
        self._lines: deque[_Prepared] = deque()
        self._dropped = 0
        """Records for which there was no room, since that was said."""
        self._unwritten = 0
        """Records that could not be written, likewise."""
        self.lost = 0
        self._writes_since: float | None = None
        self._lines_waiting = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="killable-log", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """What is wrong now, or ""."""
        if fault := self._target.fault:
            return f"the log cannot be written: {fault}"
        since = self._writes_since
        waits_s = 0.0 if since is None else clock.monotonic() - since
        return f"the log has taken no record for {waits_s:.0f} s" if waits_s > STANDS_STILL_S else ""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self._sampling.admits(record, clock.monotonic()):
                if self._sampling.is_new:
                    self._lines_waiting.set()  # from now on the thread waits for the end of the period
                return
            if len(self._lines) >= RECORDS_WAITING_MAX:
                self._dropped += 1
                self.lost += 1
                return
            if self._dropped:
                self._put(_made("records_dropped", dropped=self._dropped))
                self._dropped = 0
            self._put(record)
            if not self._lines_waiting.is_set():
                self._lines_waiting.set()
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._lines_waiting.set()
            self._thread.join(LAST_WORDS_S)  # if the stream blocks, the thread ends with the process
            if not self._thread.is_alive():
                self._target.close()
        super().close()

    def _put(self, record: logging.LogRecord) -> None:
        self._lines.append(self._prepared(record))

    def _prepared(self, record: logging.LogRecord) -> _Prepared:
        assert isinstance(self.formatter, RedactingFormatter)
        cleaned = self.formatter.cleaned(record)
        return self._target.prepared(cleaned, self.formatter.format_cleaned(cleaned))

    def _write(self) -> None:
        while True:
            due = self._sampling.due()
            wait_s = None if due is None else max(0.0, due - clock.monotonic())
            if self._unwritten or self._target.rest:
                wait_s = AGAIN_S if wait_s is None else min(wait_s, AGAIN_S)
            self._lines_waiting.wait(wait_s)
            self._lines_waiting.clear()  # before `_closing` is checked: after it, the `set` of `close` could be lost
            is_last = self._closing.wait(GATHER_S)
            self._tell_left_out(is_last)
            self._write_lines([self._lines.popleft() for _ in range(len(self._lines))])
            if is_last:
                return

    def _write_lines(self, lines: list[_Prepared]) -> None:
        """Write these, behind how many could not be written before."""
        unwritten = self._unwritten
        if unwritten:
            lines.insert(0, self._prepared(_made("records_dropped", dropped=unwritten)))
        if not (lines or self._target.rest):
            return
        self._writes_since = clock.monotonic()
        lost = self._target.write(lines)
        self._writes_since = None
        is_told = lost < len(lines)
        new = lost if is_told or not unwritten else lost - 1
        self._unwritten = new if is_told else unwritten + new
        self.acquire()
        self.lost += new
        self.release()

    def _tell_left_out(self, is_last: bool) -> None:
        self.acquire()
        try:
            for name, number, level in self._sampling.over(clock.monotonic(), at_end=is_last):
                self._put(_made("left_out", level, name_left_out=name, number=number, period_s=PERIOD_S))
        finally:
            self.release()


def _made(event: str, level: int = logging.WARNING, **fields: Any) -> logging.LogRecord:
    """Return a record of the log's own."""
    record = logging.LogRecord(f"{OWN}.log", level, "", 0, event, None, None)
    record.__dict__.update(fields)
    return record


_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_TEXT_IN_JOURNAL = "%(name)s %(message)s"
"""journald has the time and the level by itself."""


class _TextLines(RedactingFormatter):
    """Formats a record as time, level, logger, event and fields (name=value). An indented traceback follows."""

    def __init__(self, redact: bool, form: str) -> None:
        super().__init__(form)
        self.redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _one_line(record.message)
        fields = [
            f"{name}={_shown(value)}"
            for name, value in record.__dict__.items()
            if name not in _NO_FIELDS and value not in (None, "") and not name.startswith("_")
        ]
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
