"""The output of a job as events between `started` and the end: its tokens, and the lines of stdout and stderr as `log`.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.jobs.event_log import Batch, EventLog
from killable.supervisor.jobs.output_lines import OutputLines
from killable.supervisor.models import Verdict
from killable.workers.authoring.units import size


class JobOutput:
    """Writes one attempt's tokens and lines to the job's log. Each method returns whether all was within the bound."""

    def __init__(self, log: EventLog, on_first_token: Callable[[], None]) -> None:
        self._log = log
        self._on_first_token = on_first_token
        self._lines: dict[str, OutputLines] = {}
        """By stream: "stdout", which may be stderr's too, and "stderr"."""
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._open = False

    def open(self) -> bool:
        """Write the lines that were printed before the event `started`, which is now in the log."""
        self._open = True
        early, self._early = self._early, []
        return self._append(early)

    def tokens(self, batch: Batch, size: int) -> bool:
        before = self._log.tokens
        fits = self._log.append_output(batch, size)
        if not before and self._log.tokens:
            self._on_first_token()
            self._on_first_token = _told
        return fits

    def output(self, data: bytes, stream: str = "stdout") -> bool:
        """Take bytes of stdout or stderr. Lines that come before the job is entered wait for `open`."""
        if stream not in self._lines:
            self._lines[stream] = OutputLines(stream)
        lines = self._lines[stream].feed(data)
        if self._open:
            return self._append(lines)
        self._early += lines
        self._early_bytes += sum(map(len, lines))
        return self._early_bytes <= self._log.output_bytes_max

    def close(self) -> bool:
        """Write the lines that wait and the text after the last line end."""
        early_fits = self.open()
        self._on_first_token = _told
        rests = [line for lines in self._lines.values() for line in lines.rest()]
        return self._append(rests) and early_fits

    def _append(self, lines: list[bytes]) -> bool:
        return self._log.append_output([("log", line) for line in lines], sum(map(len, lines)))


def _told() -> None:
    """Be what is called at the first token when it is not awaited: whose call it was has this output."""


def too_much(limit: int) -> Verdict:
    """Return the verdict for a job that has streamed and printed more than `limit` bytes."""
    words = f"output_bytes of {size(limit)} was reached; what came before is kept"
    facts = {"limit": "output_bytes", "limit_bytes": limit, "message": words}
    return Verdict("limit.output", by="supervisor", facts=facts)
