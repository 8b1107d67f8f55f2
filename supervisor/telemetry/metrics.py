"""What happens to jobs, counted: totals since the start, histograms for Prometheus, and a window of the latest values.

Runs in: supervisor. `observer` tells it, `exposition` tells the others. One registry for each supervisor, never the
library's global one. No method is called per token, and every label comes from a set that cannot grow with the jobs:
registered types, codes, signals.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram

from killable.supervisor.models import TERMINAL_STATES, Outcome, Verdict
from killable.workers.errors import CODES

WINDOW = 1024
"""Latest values behind a percentile: p99 still rests on ten of them."""
ACCEPTED, REPLAYED = "accepted", "replayed"
TIMEOUT = "timeout."
KINDS = tuple(code.removeprefix(TIMEOUT) for code in CODES if code.startswith(TIMEOUT))
RETRYABLE = tuple(code for code, row in CODES.items() if row.state is not None and row.retryable)
WHO = ("user", "client_gone", "operator", "shutdown", "supervisor")
"""Who may ask for a stop; whoever else a caller names is counted as `other`."""
LINGERED = "lingered"
"""Cause of a kill that no verdict asked for: the job was over and its process stayed."""
CANCEL_PHASES = {"term": "term_sent", "ack": "acknowledged", "exit": "exited", "tree_empty": "tree_empty"}
"""Label of `cancel_seconds` → phase of the certificate."""

SHORT_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Up to the default of queue_s."""
STOP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
"""From below a raw kill's own time to the cap of grace_s."""
RUN_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Up to the cap of run_s."""

Percentiles = dict[str, float | None]


class Window:
    """The latest values of one measure, in seconds."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=WINDOW)

    def note(self, seconds: float) -> None:
        self._latest.append(seconds)

    def percentiles(self, unit: float) -> Percentiles:
        """Return p50, p95 and p99 in units of `unit` seconds, each a value that was seen; None while there is none."""
        values = sorted(self._latest)
        last = len(values) - 1
        return {
            name: round(values[min(last, int(len(values) * share))] / unit, 3) if values else None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }


class Metrics:
    """Times are seconds; each job comes to `on_ended` once, however it ended."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs: Counter[tuple[str, ...]] = Counter()
        """By type and outcome."""
        self.submissions: Counter[str] = Counter({ACCEPTED: 0})
        """By `accepted`, `replayed` or the code of the refusal."""
        self.stops: Counter[tuple[str, ...]] = Counter()
        """By code and who asked."""
        self.kills: Counter[tuple[str, ...]] = Counter()
        """By code and signal."""
        self.retries: Counter[str] = Counter(dict.fromkeys(RETRYABLE, 0))
        """By the code of the attempt that was followed by another one."""
        self.timeouts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.tokens = 0
        """Of ended jobs: what the live ones have emitted is read when someone asks."""
        self.tokens_saved = 0
        self.queue_wait, self.start, self.first_token = Window(), Window(), Window()
        self.cancel, self.recovery = Window(), Window()
        self.run: dict[str, Window] = {}
        """By type."""
        self._run_s = self._histogram(
            "job_duration", "From a job's entry until nothing of it was left; without cancelled jobs", RUN_S, "type"
        )
        self._queue_wait_s = self._histogram(
            "queue_wait", "From the acceptance to a worker, or to the end of queue_s", SHORT_S, "type"
        )
        self._start_s = self._histogram("start", "From a worker to the entry of the job function", SHORT_S, "type")
        self._first_token_s = self._histogram(
            "first_token", "From the entry of the job function to its first token", SHORT_S, "type"
        )
        self._cancel_s = self._histogram(
            "cancel",
            "From the request of a cancel to SIGTERM (term), the job's acknowledgement (ack), the exit of its process "
            "(exit), and until nothing of its tree was left (tree_empty)",
            STOP_S,
            "phase",
        )
        self._recovery_s = self._histogram(
            "recovery", "From the end of an attempt's tree until its pool had a warm worker again", STOP_S
        )

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"killable_{name}_seconds", text, labels, buckets=tuple(buckets), registry=self.registry)

    def on_types(self, types: Iterable[str]) -> None:
        """Job types are registered: their counts begin at 0, so that a first failure is a rise and not a new line."""
        for name in types:
            for outcome in TERMINAL_STATES:
                self.jobs[name, outcome] += 0

    def on_submitted(self) -> None:
        self.submissions[ACCEPTED] += 1

    def on_replayed(self) -> None:
        """The first answer was given again for an idempotency key: no new job."""
        self.submissions[REPLAYED] += 1

    def on_refused(self, code: str) -> None:
        self.submissions[code if code in CODES else "internal"] += 1

    def on_left_queue(self, type: str, waited_s: float) -> None:
        """A worker took it, or `queue_s` was over."""
        self.queue_wait.note(waited_s)
        self._queue_wait_s.labels(type).observe(waited_s)

    def on_entered(self, type: str, after_s: float) -> None:
        self.start.note(after_s)
        self._start_s.labels(type).observe(after_s)

    def on_retrying(self, outcome: Outcome, verdict: Verdict | None, certificate: Mapping[str, Any]) -> None:
        """An attempt has ended and its job goes on."""
        self.retries[outcome.code or ""] += 1
        self._note_kills(verdict, certificate)

    def on_first_token(self, type: str, after_s: float) -> None:
        self.first_token.note(after_s)
        self._first_token_s.labels(type).observe(after_s)

    def on_ended(
        self,
        type: str,
        outcome: Outcome,
        verdict: Verdict | None,
        certificate: Mapping[str, Any],
        *,
        ran_s: float | None,
        tokens: int,
        tokens_left: int = 0,
    ) -> None:
        """A job has ended. `ran_s` None: it was never entered. `tokens_left`: what it still wanted to emit."""
        self.jobs[type, outcome.state] += 1
        self.tokens += tokens
        if outcome.code is not None and outcome.code.startswith(TIMEOUT):
            self.timeouts[outcome.code.removeprefix(TIMEOUT)] += 1
        if verdict is not None:
            self.stops[verdict.code, verdict.by if verdict.by in WHO else "other"] += 1
            self.tokens_saved += tokens_left
        self._note_kills(verdict, certificate)
        if outcome.state == "cancelled":
            self._note_cancel(certificate)
        elif ran_s is not None:
            self.run.setdefault(type, Window()).note(ran_s)
            self._run_s.labels(type).observe(ran_s)

    def _note_kills(self, verdict: Verdict | None, certificate: Mapping[str, Any]) -> None:
        cause = LINGERED if verdict is None else verdict.code
        for phase, signal in (("term_sent", "SIGTERM"), ("kill_sent", "SIGKILL")):
            if phase in certificate:
                self.kills[cause, signal] += 1

    def _note_cancel(self, certificate: Mapping[str, Any]) -> None:
        """Phases that did not happen are not there; a job that never had a worker has none."""
        for label, phase in CANCEL_PHASES.items():
            if phase in certificate:
                self._cancel_s.labels(label).observe(certificate[phase] / 1000)
        if "tree_empty" in certificate:
            self.cancel.note(certificate["tree_empty"] / 1000)

    def on_recovered(self, after_s: float) -> None:
        """After an attempt that took its worker with it, a worker is warm."""
        self.recovery.note(after_s)
        self._recovery_s.observe(after_s)
