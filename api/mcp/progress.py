"""What a client is told while its call runs: the job's progress, and the text that it streams.

Runs in: api. Pure.

Clients show the message of a progress notification, and many wait longer after each. So both go this way, and nothing
as a log message, which few clients show and the protocol gives up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from killable.api.http.joined_output import decoded
from killable.api.mcp.answers import readable
from killable.supervisor.models import JobEvent
from killable.workers.named_tuples import NamedTuple

MESSAGE_CHARS_MAX = 8 << 10
"""Characters of one message; clients show a line of it."""
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

    def notes(self, batch: Sequence[JobEvent]) -> Iterator[Note]:
        """Yield the notifications for events: one for each report of the job, one for all text between two."""
        tokens: list[bytes] = []
        for event in batch:
            if event.name == "token":
                tokens.append(event.data)
            elif event.name in ("progress", "retrying"):
                if tokens:
                    yield self._of_tokens(tokens)
                    tokens = []
                data = json.loads(event.data)
                yield self._of_report(data) if event.name == "progress" else self._of_retry(data)
        if tokens:
            yield self._of_tokens(tokens)

    def _of_tokens(self, tokens: Sequence[bytes]) -> Note:
        self._tokens += len(tokens)
        return self._note(None if self._is_own else float(self._tokens), _text(tokens))

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
    sizes = [len(token) for token in tokens if token.startswith(b'{"base64"')]
    if sizes:
        return f"{sum(sizes) * 3 // 4} bytes"
    pieces: list[str] = []
    size = 0
    for piece in decoded(tokens):
        pieces.append(str(piece, "utf-8", "replace"))
        size += len(piece)
        if size > MESSAGE_CHARS_MAX:
            break
    return "".join(pieces)


def _cut(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARS_MAX else f"{message[: MESSAGE_CHARS_MAX - 1]}…"
