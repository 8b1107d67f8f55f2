"""Counts what happens to jobs: totals since the start, histograms for Prometheus, and windows of the latest values.

Runs in: supervisor. `observer` fills it, `metrics_exposition` reads it. Each supervisor has its own registry, never the
library's global one. No method is called per token. Every label comes from a set that cannot grow with the jobs:
registered types, codes, signals.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

from killable.supervisor.models import TERMINAL_STATES, Outcome, Verdict
from killable.supervisor.telemetry.genai_metrics import GenAiMetrics
from killable.workers.error_codes import CODES

WINDOW = 1024
"""Number of latest values behind a percentile: p99 still rests on ten of them."""
MINUTE_S = 60
ACCEPTED, REPLAYED = "accepted", "replayed"
TIMEOUT = "timeout."
KINDS = tuple(code.removeprefix(TIMEOUT) for code in CODES if code.startswith(TIMEOUT))
RETRYABLE = tuple(code for code, row in CODES.items() if row.state is not None and row.retryable)
RECOVERIES = 100
"""The same of one pool, which tells how it does now."""
WHO = ("user", "client_gone", "operator", "shutdown", "supervisor")
"""Known requesters of a stop; any other one is counted as `other`."""
LINGERED = "lingered"
"""Cause of a kill without a verdict: the job was over and its process stayed."""
CANCEL_PHASES = {"term": "term_sent", "ack": "acknowledged", "exit": "exited", "tree_empty": "tree_empty"}
"""Label of `cancel_seconds` → phase of the certificate."""

SHORT_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Buckets up to the default of queue_s."""
STOP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
"""Buckets from below the duration of a bare kill to the cap of grace_s."""
RUN_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Buckets up to the cap of run_s."""

Percentiles = dict[str, float | None]
Exemplar = dict[str, str] | None
"""The trace of a measured value; None: it is in none that is told."""


class Window:
    """The latest values of one measure, in seconds."""

    __slots__ = ("_latest",)

    def __init__(self, length: int = WINDOW) -> None:
        self._latest: deque[float] = deque(maxlen=length)

    def note(self, seconds: float) -> None:
        self._latest.append(seconds)

    def last(self, unit: float) -> float | None:
        """Return the latest value in units of `unit` seconds; None while there is none."""
        return round(self._latest[-1] / unit, 3) if self._latest else None

    def percentiles(self, unit: float) -> Percentiles:
        """Return p50, p95 and p99 in units of `unit` seconds, each a measured value; None while there is none."""
        values = sorted(self._latest)
        last = len(values) - 1
        return {
            name: round(values[min(last, int(len(values) * share))] / unit, 3) if values else None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }


class EndsLately:
    """The jobs that have ended in the last minute, counted by the second."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()
        """A second of CLOCK_MONOTONIC and its jobs, the latest last."""

    def note(self, at: float) -> None:
        """Count one that has ended at this time, in monotonic seconds."""
        if self._seconds and self._seconds[-1][0] == int(at):
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([int(at), 1])
            self._forget(at)

    def number(self, now: float) -> int:
        """Return how many there were in the 60 s before `now`, to the second."""
        self._forget(now)
        return sum(jobs for _, jobs in self._seconds)

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= int(now) - MINUTE_S:
            self._seconds.popleft()


class Metrics:
    """The counts of one supervisor. Times are in seconds. `on_ended` is called once per job, for any outcome."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs: Counter[tuple[str, ...]] = Counter()
        """Ended jobs by type and outcome."""
        self.endings: Counter[tuple[str, ...]] = Counter()
        """Ended jobs by type and code; those without one by their state."""
        self.submissions: Counter[str] = Counter({ACCEPTED: 0})
        """Submissions by `accepted`, `replayed` or the code of the refusal."""
        self.stops: Counter[tuple[str, ...]] = Counter()
        """Stopped jobs by code and requester."""
        self.kills: Counter[tuple[str, ...]] = Counter()
        """Signals by code and signal."""
        self.retries: Counter[str] = Counter(dict.fromkeys(RETRYABLE, 0))
        """Retries by the code of the attempt that ended."""
        self.ends = EndsLately()
        self.unproven = 0
        """Attempts of which it is not proven that no process is left."""
        self.timeouts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.keys_forgotten = 0
        """Idempotency keys that were forgotten before their time."""
        self.tokens = 0
        """Tokens of ended jobs; those of live jobs are read at each scrape."""
        self.tokens_saved = 0
        self.recovery_of: dict[str, Window] = {}
        """By pool."""
        self.queue_wait, self.start, self.first_token = Window(), Window(), Window()
        self.cancel, self.recovery = Window(), Window()
        self.run: dict[str, Window] = {}
        """Run times by type."""
        ProcessCollector(registry=self.registry)
        self.genai = GenAiMetrics(self.registry)
        self._make_histograms()

    def _make_histograms(self) -> None:
        self._run_s = self._histogram(
            "job_duration",
            "Time from the entry of the job function until its process tree was empty; without cancelled jobs",
            RUN_S,
            "type",
        )
        self._queue_wait_s = self._histogram(
            "queue_wait",
            "Time from the acceptance to the assignment to a worker, or to the end of queue_s",
            SHORT_S,
            "type",
        )
        self._start_s = self._histogram(
            "start", "Time from the assignment to the entry of the job function", SHORT_S, "type"
        )
        self._first_token_s = self._histogram(
            "first_token", "Time from the entry of the job function to its first token", SHORT_S, "type"
        )
        self._cancel_s = self._histogram(
            "cancel",
            "Time from the request of a cancel to SIGTERM (term), the job's acknowledgement (ack), the exit of its "
            "process (exit), and its empty process tree (tree_empty)",
            STOP_S,
            "phase",
        )
        self._kill_s = self._histogram(
            "kill", "Time from SIGKILL until the process tree was empty, of every ended attempt", STOP_S
        )
        self._recovery_s = self._histogram(
            "recovery", "Time from the end of an attempt's process tree until its pool had a warm worker again", STOP_S
        )

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"killable_{name}_seconds", text, labels, buckets=tuple(buckets), registry=self.registry)

    def on_types(self, types: Iterable[str]) -> None:
        """Let the counts of new job types begin at 0, so that a first failure is an increase and not a new series."""
        for name in types:
            for outcome in TERMINAL_STATES:
                self.jobs[name, outcome] += 0

    def on_submitted(self) -> None:
        self.submissions[ACCEPTED] += 1

    def on_replayed(self) -> None:
        """Count an idempotency key that got its first answer again and made no new job."""
        self.submissions[REPLAYED] += 1

    def on_refused(self, code: str) -> None:
        self.submissions[code if code in CODES else "internal"] += 1

    def on_left_queue(self, type: str, waited_s: float, exemplar: Exemplar = None) -> None:
        """Note that a worker took a job, or that its `queue_s` was over."""
        self.queue_wait.note(waited_s)
        self._queue_wait_s.labels(type).observe(waited_s, exemplar)

    def on_entered(self, type: str, after_s: float, exemplar: Exemplar = None) -> None:
        self.start.note(after_s)
        self._start_s.labels(type).observe(after_s, exemplar)

    def on_retrying(
        self, outcome: Outcome, verdict: Verdict | None, certificate: Mapping[str, Any], *, tokens: int
    ) -> None:
        """Note that an attempt, which has emitted `tokens`, has ended and its job gets another one."""
        self.retries[outcome.code or ""] += 1
        self.tokens += tokens
        self._note_attempt(verdict, certificate)

    def on_first_token(self, type: str, after_s: float, exemplar: Exemplar = None) -> None:
        self.first_token.note(after_s)
        self._first_token_s.labels(type).observe(after_s, exemplar)

    def ends_by_code(self) -> dict[str, int]:
        """Return the ended jobs by code; those without one by their state."""
        found: Counter[str] = Counter()
        for (_, code), number in self.endings.items():
            found[code] += number
        return dict(found)

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
        exemplar: Exemplar = None,
    ) -> None:
        """Note the end of a job. `ran_s` None: it was never entered. `tokens_left`: announced and not emitted."""
        self.jobs[type, outcome.state] += 1
        self.endings[type, outcome.code or outcome.state] += 1
        self.tokens += tokens
        if outcome.code is not None and outcome.code.startswith(TIMEOUT):
            self.timeouts[outcome.code.removeprefix(TIMEOUT)] += 1
        if verdict is not None:
            self.stops[verdict.code, verdict.by if verdict.by in WHO else "other"] += 1
            self.tokens_saved += tokens_left
        self._note_attempt(verdict, certificate, exemplar)
        if outcome.state == "cancelled":
            self._note_cancel(certificate, exemplar)
        elif ran_s is not None:
            self.run.setdefault(type, Window()).note(ran_s)
            self._run_s.labels(type).observe(ran_s, exemplar)

    def _note_attempt(self, verdict: Verdict | None, certificate: Mapping[str, Any], exemplar: Exemplar = None) -> None:
        self.unproven += "unproven" in certificate
        cause = LINGERED if verdict is None else verdict.code
        for phase, signal in (("term_sent", "SIGTERM"), ("kill_sent", "SIGKILL")):
            if phase in certificate:
                self.kills[cause, signal] += 1
        if "kill_sent" in certificate and "tree_empty" in certificate:
            self._kill_s.observe((certificate["tree_empty"] - certificate["kill_sent"]) / 1000, exemplar)

    def _note_cancel(self, certificate: Mapping[str, Any], exemplar: Exemplar) -> None:
        """Observe the phases that happened; a job that never had a worker has none."""
        for label, phase in CANCEL_PHASES.items():
            if phase in certificate:
                self._cancel_s.labels(label).observe(certificate[phase] / 1000, exemplar)
        if "tree_empty" in certificate:
            self.cancel.note(certificate["tree_empty"] / 1000)

    def on_recovered(self, after_s: float, pool: str) -> None:
        """Note the time from the end of an attempt that cost its worker until its pool had a warm one again."""
        self.recovery.note(after_s)
        self.recovery_of.setdefault(pool, Window(RECOVERIES)).note(after_s)
        self._recovery_s.observe(after_s)
