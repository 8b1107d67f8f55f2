"""Sends spans to a collector, from a thread of its own: nothing that it does can hold up a kill.

Runs in: supervisor. What waits is bounded, in number and in bytes; what is over the bound is dropped and counted, and
so is what could not be sent. At the end what waits is sent, if that takes no longer than it may.

The exporter of OpenTelemetry does the sending, with its repetitions. Its BatchSpanProcessor would drop silently, and
wants spans: they are made here, in the thread, of facts that are a tuple.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from killable.supervisor.telemetry.job_trace import JobFacts
from killable.supervisor.telemetry.request_trace import RequestFacts

logger = logging.getLogger("killable.telemetry")

GATHER_S = 1.0
"""Time for which ends are gathered before they are sent together."""
BATCH_MAX = 256
"""Jobs and requests whose spans are sent together."""
SPANS_MAX = 4096
"""With so many spans no more jobs are added to what is sent together."""
BYTES_MAX = 32 << 20
"""Approximate memory of what waits."""

SENT, DROPPED, FAILED = "sent", "dropped", "failed"
RESULTS = (SENT, DROPPED, FAILED)
Facts = JobFacts | RequestFacts


class SpanExporter(Protocol):
    """Sends one batch; `opentelemetry.sdk.trace.export.SpanExporter`."""

    def export(self, spans: Sequence[Any]) -> Any: ...
    def shutdown(self) -> None: ...


class OtlpSender:
    """One for each server. `put` may be called in any thread; the counts are of spans' jobs and requests."""

    def __init__(
        self, exporter: SpanExporter, build: Callable[[Facts], Sequence[Any]], waiting_max: int, *, address: str
    ) -> None:
        """`build` makes spans, in the sending thread."""
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        """Jobs and requests whose spans were sent, dropped as too many waited, or could not be sent."""
        self._exporter = exporter
        self._build = build
        self._waiting_max = waiting_max
        self._address = address
        self._waiting: deque[Facts] = deque()
        self._bytes = 0
        self._closing = threading.Event()
        self._fails = self._is_over = False
        self._under_way = 0
        """Jobs and requests whose spans are being sent."""
        self._thread = threading.Thread(target=self._run, name="killable-traces", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, facts: Facts) -> None:
        """Have something sent. Never blocks."""
        if self._closing.is_set() or len(self._waiting) >= self._waiting_max or self._bytes >= BYTES_MAX:
            self.counts[DROPPED] += 1
            return
        self._bytes += facts.size
        self._waiting.append(facts)  # the thread is not woken: it would take the interpreter from the job that begins

    def end_soon(self) -> None:
        """Send what waits, and end; what comes from now on is dropped."""
        self._closing.set()

    def close(self, within_s: float) -> None:
        """Wait for the end, for so long at most; what is left is dropped and counted. Blocks."""
        self._closing.set()
        self._thread.join(within_s)
        self._is_over = True
        left = len(self._waiting) + self._under_way
        self._waiting.clear()
        self._exporter.shutdown()  # it may be waiting before it tries again
        if left:
            self.counts[DROPPED] += left
            logger.warning("traces_lost", extra={"number": left, "endpoint": self._address})

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(GATHER_S)
            while self._waiting:
                self._send_some()

    def _send_some(self) -> None:
        spans: list[Any] = []
        while self._waiting and self._under_way < BATCH_MAX and len(spans) < SPANS_MAX:
            try:
                facts = self._waiting.popleft()
            except IndexError:  # `close` has given up
                break
            self._bytes -= facts.size
            self._under_way += 1
            try:
                spans += self._build(facts)
            except Exception:
                logger.exception("trace_not_built")
        try:
            is_sent = self._exporter.export(spans).name == "SUCCESS"
        except Exception:  # an answer that is none
            logger.debug("traces_not_sent", exc_info=True)
            is_sent = False
        if self._is_over:
            return  # `close` has counted them, and the log is over
        number, self._under_way = self._under_way, 0
        self.counts[SENT if is_sent else FAILED] += number
        if self._fails == is_sent:  # told once, not for each batch
            self._fails = not is_sent
            if is_sent:
                logger.info("traces_are_sent_again", extra={"endpoint": self._address})
            else:
                logger.warning("traces_cannot_be_sent", extra={"endpoint": self._address})
