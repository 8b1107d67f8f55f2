"""What a job says, as events in their place, after `started` and before the end: its tokens, and as `log` the lines of
its stdout and stderr.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.jobs.event_log import Batch, EventLog
from killable.supervisor.jobs.output_lines import OutputLines
from killable.supervisor.models import Verdict


class Transcript:
    """Writes one attempt's tokens and lines into the job's log; each call tells whether all of it was within the
    bound.
    """

    def __init__(self, log: EventLog, on_first_token: Callable[[], None]) -> None:
        self._log = log
        self._on_first_token = on_first_token
        self._lines = OutputLines()
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._open = False

    def open(self) -> bool:
        """`started` stands in the log: what was printed before it follows now."""
        self._open = True
        early, self._early = self._early, []
        return self._append(early)

    def tokens(self, batch: Batch, size: int) -> bool:
        before = self._log.tokens
        fits = self._log.append_tokens(batch, size)
        if not before and self._log.tokens:
            self._on_first_token()
        return fits

    def output(self, data: bytes) -> bool:
        """Take bytes of stdout and stderr; lines that come before the job is entered wait for it."""
        lines = self._lines.feed(data)
        if self._open:
            return self._append(lines)
        self._early += lines
        self._early_bytes += sum(map(len, lines))
        return self._early_bytes <= self._log.output_bytes_max

    def close(self) -> bool:
        """Nothing more comes: what waited, and what stood after the last line end."""
        early_fits = self.open()
        return self._append(self._lines.rest()) and early_fits

    def _append(self, lines: list[bytes]) -> bool:
        for line in lines:
            self._log.append("log", line)
        return not self._log.overflowed


def too_much(limit: int) -> Verdict:
    """Return why a job ends that has streamed and printed so many bytes."""
    words = f"output_bytes of {limit} was reached; what came before is kept"
    facts = {"limit": "output_bytes", "limit_bytes": limit, "message": words}
    return Verdict("limit.output", by="supervisor", facts=facts)
