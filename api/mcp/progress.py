"""What a client is told while its call runs: the job's progress, and the text that it streams.

Runs in: api. Pure.

Clients show the message of a progress notification, and many wait longer after each. So both go this way, and nothing
as a log message, which few clients show and the protocol gives up. What comes faster than anyone looks is told at a
pace (`progress_pace`): all text since, and the latest report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from killable.api.http.joined_output import decoded
from killable.api.mcp.tool_results import readable
from killable.supervisor.models import JobEvent
from killable.workers.named_tuples import NamedTuple

MESSAGE_CHARS_MAX = 8 << 10
"""Characters of one message; clients show a line of it."""
_HELD_BYTES = 12 * MESSAGE_CHARS_MAX
"""Bytes of tokens that are held for a message: a character has twelve at most, as JSON."""
_NUMBER_MAX = 2.0**53
"""Larger numbers are no progress, and JSON has them in no two programs alike."""


class Note(NamedTuple):
    """The members of a progress notification."""

    progress: float
    total: float | None
    message: str


class CallProgress:
    """The progress of one call. Its numbers only grow, as the protocol demands: a text between two reports of the job
    is told with a number that is a little larger than the one before.
    """

    def __init__(self) -> None:
        self._last = -1.0
        self._tokens = 0
        self._total: float | None = None
        self._is_own = False
        """Whether the last number is of the job's own reports. Before the first of them its tokens are counted."""
        self._text: list[bytes] = []
        """Tokens that are not told yet, as far as a message has room for them."""
        self._text_bytes = self._base64_bytes = 0
        self._report: bytes | None = None
        """The latest report that is not told yet."""
        self._report_is_last = False
        """Whether it came after that text."""
        self._notes: list[Note] = []

    def add(self, batch: Sequence[JobEvent]) -> None:
        """Take events. Text adds up, and a report takes the place of the one before."""
        for event in batch:
            if event.name == "token":
                self._add_token(event.data)
            elif event.name == "progress":
                self._report, self._report_is_last = event.data, True
            elif event.name == "retrying":
                self._end_notes()
                self._notes.append(self._of_retry(json.loads(event.data)))

    def take(self) -> Sequence[Note]:
        """Return the notifications for what has come since the last call: few, however much that was."""
        self._end_notes()
        notes, self._notes = self._notes, []
        return notes

    def _add_token(self, token: bytes) -> None:
        self._tokens += 1
        self._report_is_last = False
        self._text_bytes += len(token)
        if token.startswith(b'{"base64"'):
            self._base64_bytes += len(token)
        elif self._text_bytes - len(token) <= _HELD_BYTES:  # one that is larger is held whole, and read in part
            self._text.append(token)

    def _end_notes(self) -> None:
        if self._report is not None and not self._report_is_last:
            self._note_report(self._report)
        if self._text_bytes:
            said = _text(self._text) + ("…" if self._text_bytes > _HELD_BYTES else "")
            said = f"{self._base64_bytes * 3 // 4} bytes" if self._base64_bytes else said
            self._text, self._text_bytes, self._base64_bytes = [], 0, 0
            self._notes.append(self._note(None if self._is_own else float(self._tokens), said))
        if self._report is not None:
            self._note_report(self._report)

    def _note_report(self, report: bytes) -> None:
        self._report = None
        self._notes.append(self._of_report(json.loads(report)))

    def _of_report(self, data: Mapping[str, Any]) -> Note:
        done, total = _number(data.get("done")), _number(data.get("total"))
        if done is not None and done > self._last:
            self._is_own, self._total = True, total
        told = "" if done is None else f"{done:g}" if total is None else f"{done:g} of {total:g}"
        return self._note(done, f"{told} {data.get('unit') or ''}".strip())

    def _of_retry(self, data: Mapping[str, Any]) -> Note:
        return self._note(None, f"attempt {data['attempt']} failed, the next one begins in {data['wait_s']:g} s")

    def _note(self, number: float | None, message: str) -> Note:
        self._last = number if number is not None and number > self._last else self._last + _step(self._last)
        return Note(self._last, self._total if self._is_own else None, _cut(readable(message)))


def _number(value: Any) -> float | None:
    """Return a number of a report, which a job may have written itself; None: it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _NUMBER_MAX else None


def _step(number: float) -> float:
    """Return how much the next number is larger, where nothing says it."""
    return max(1e-9, math.ulp(number))


def _text(tokens: Sequence[bytes]) -> str:
    """Return what a person can read of tokens."""
    pieces: list[str] = []
    size = 0
    for piece in decoded(tokens):
        pieces.append(str(piece, "utf-8", "replace"))
        size += len(pieces[-1])
        if size > MESSAGE_CHARS_MAX:
            break
    return "".join(pieces)


def _cut(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARS_MAX else f"{message[: MESSAGE_CHARS_MAX - 1]}…"
