"""One attempt that runs on a node, as the head sees it: repeats what the node reports, in the job of the head.

Runs in: supervisor, on the head. The node decides everything about the attempt; only that its node was lost is decided
here.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from killable.supervisor.attempts.exit_outcome import message_of, without_message
from killable.supervisor.attempts.run_order import trace_of
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.cluster.message_checks import end_of
from killable.supervisor.cluster.messages import Header, pieces
from killable.supervisor.jobs import queue_deadlines
from killable.supervisor.jobs.event_log import Batch, EventLog
from killable.supervisor.jobs.inputs import content_of
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import TABLE, Cause, State, terminal_state_of
from killable.supervisor.models import Certificate, Outcome, Verdict
from killable.supervisor.pools.pool_protocols import HeldRun, JobWorker, RunningAttemptOwner
from killable.workers.authoring.limits_and_caps import beside_defaults

_NAME, _DATA = itemgetter(0), itemgetter(1)


class BrokenStream(Exception):
    """A node has sent something that cannot follow what it sent before: a bug, or another version."""


class AttemptSlot(JobWorker, Protocol):
    """The slot of a node that an attempt has."""

    worker_stays: bool

    def on_slot_ready(self) -> None: ...


class Orders(Protocol):
    """The way to the node, as an attempt sees it."""

    name: str

    def order(self, header: Header, blobs: list[bytes]) -> None:
        """Send the orders of these blobs one after the other, each with this header, until each is answered."""
        ...


class RemoteAttempt:
    """One attempt, from its order until the node has told its end, or is lost."""

    def __init__(
        self, job: Job, worker: AttemptSlot, n: int, orders: Orders, *, clock: Clock, owner: RunningAttemptOwner
    ) -> None:
        self.job = job
        job.log.output_bytes_max = sys.maxsize  # the bound is the node's: what it has accepted is not refused here
        self.worker = worker
        self.n = n
        self._orders = orders
        self._clock = clock
        self._owner = owner
        self._pieces: list[bytes] = []
        self._values: dict[str, bytes] = {}
        self._asked: Verdict | None = None
        self._told: Verdict | None = None
        """Why its node ends it, before anybody has asked for that here."""
        self._asked_at: float | None = None
        self._grace_s: float | None = None
        self._slot_ready_ms: float | None = None
        self._total_timer: Timer | None = None
        """Until its node has told of a worker: from then on only the node's counts."""
        self._has_worker = False
        """Whether its node has told of one."""
        self._events = 0
        """The id above all that a client of an earlier head can have seen of it."""
        self.is_over = False
        self.incarnation = ""
        """That of its node."""
        self.certificate = Certificate()

    @property
    def node(self) -> str:
        return self._orders.name

    def begin(self, *, has_order: bool = False) -> None:
        """Send the order, with the input; a large one comes before it in pieces."""
        job, submission, now = self.job, self.job.submission, self._clock.now()
        job.node = self._orders.name
        before = b"" if job.partial is None or job.attempts == 1 else job.partial
        *parts, last = pieces(content_of(submission.input) + before)
        for place, part in enumerate(parts):
            self._orders.order({"order": "part", "n": self.n, "place": place}, [part])
        traceparent, tracestate, tells_spans = trace_of(job)
        run = {
            "order": "run", "n": self.n, "parts": len(parts), "job_id": job.id, "type": job.type.name,
            "submitted_as": submission.type, "attempt": job.attempts, "limits": beside_defaults(job.limits),
            "tags": dict(submission.tags), "correlation_id": submission.correlation_id,
            "traceparent": traceparent, "tracestate": tracestate, "tells_spans": tells_spans,
            "age_s": now - job.created, "waited_s": now - job.queued, "at_event": len(job.log),
            "output_bytes": job.log.output_bytes, "tokens": job.log.tokens, "checkpoint_bytes": len(before),
        }  # fmt: skip
        self._orders.order(run, [last])
        if job.limits["total_s"] is not None:
            self._total_timer = self._clock.call_at(job.created + job.limits["total_s"], self._on_total)

    def _on_total(self) -> None:
        """End it whose order has not come to its node, or is behind a large input."""
        if self._verdict is None:
            why = f"node {self._orders.name} has not told of a worker for it"
            self.stop(queue_deadlines.verdict_of(self.job, "total_s", why))

    def _take_back_wait(self) -> None:
        """Take back that it has waited too long: it has a worker, or was lost and may have had one. Its node has not
        stopped it for that, and has its deadline itself.
        """
        if self._asked is not None and self._asked.code == "timeout.queue":
            self._asked = self._asked_at = self._grace_s = self.job.verdict = None

    def _stop_timer(self) -> None:
        if self._total_timer is not None:
            self._total_timer.cancel()

    def go_on(self, held: HeldRun) -> None:
        """Take an attempt over that an earlier head has begun; what its node tells comes from the beginning."""
        job, now = self.job, self._clock.now()
        job.node = self._orders.name
        self._events = held.events
        job.assigned = now if held.assigned_s is None else now - held.assigned_s
        if held.started_s is not None:
            job.started = now - held.started_s
            job.started_at = job.at(job.started)

    # ── stopping ──

    @property
    def grace_s(self) -> float | None:
        return self._grace_s

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None:
        """Ask the node to end it; if it is ending already, only its grace is shortened there. The first verdict stays,
        as far as it is known here: the node may have decided otherwise in the meantime.
        """
        if self.is_over or self._has_ended_by_itself:
            return
        if self._verdict is None:
            self._asked, self._asked_at = verdict, self._clock.now()
            self.job.verdict = verdict
            grace = self.job.limits["grace_s"]
            self._grace_s = grace if grace_s is None else min(grace_s, grace)
        elif grace_s is not None and self._grace_s is not None and grace_s < self._grace_s:
            self._grace_s = grace_s
        else:
            return  # it ends already, and no later
        asked = {"code": verdict.code, "by": verdict.by, "reason": verdict.reason, "facts": dict(verdict.facts)}
        whose = {"job_id": self.job.id, "attempt": self.job.attempts}
        self._orders.order({"order": "stop", "n": self.n, **whose, "verdict": asked, "grace_s": grace_s}, [b""])

    @property
    def _verdict(self) -> Verdict | None:
        """The first that is known here."""
        return self._asked or self._told

    @property
    def _has_ended_by_itself(self) -> bool:
        return self.job.state is State.SWEEPING and self.job.verdict is None

    def on_drained(self, why: str) -> None:
        """Stop it, if nobody has yet: its node is to have no jobs. A job that may be tried again is, elsewhere."""
        if self._verdict is None:
            name = self._orders.name
            facts = {"message": f"node {name} was drained: {why}", "node": name}
            self.stop(Verdict("node_drained", by="operator", reason=why, facts=facts))

    def kill_now(self, verdict: Verdict) -> None:
        self.stop(verdict, 0.0)

    def hold_output(self, *, held: bool) -> None:
        """Only an Executor holds output back."""

    def certificate_so_far(self) -> Certificate:
        """Return what is known here: the phases come with the end."""
        verdict = self._verdict or Verdict("")
        return Certificate(
            requested=None if self._verdict is None else 0.0,
            cause=verdict.code,
            by=verdict.by,
            reason=verdict.reason,
            grace_s=self._grace_s,
            node=self._orders.name,
        )

    def slot_ready_ms(self, now: float) -> float:
        """Return what the node has measured."""
        return 0.0 if self._slot_ready_ms is None else self._slot_ready_ms

    @property
    def waits_for_slot(self) -> bool:
        """Whether its node will tell of its slot. It does not if it has never given it to a worker."""
        return self._has_worker and self._slot_ready_ms is None

    def on_slot_ready(self, after_ms: float) -> None:
        """Take note that the node has a worker for the slot again, so many ms after the request or the exit."""
        self._slot_ready_ms = after_ms
        self.worker.on_slot_ready()

    # ── what the node reports ──

    def on_item(self, header: Header, blob: bytes) -> None:
        """Take one item, or a piece of one. Raise BrokenStream."""
        if self.is_over:
            return
        if header["kind"] != "notes" and (header.get("is_cut") or self._pieces):  # notes pass what waits for its rest
            self._pieces.append(blob)
            if header.get("is_cut"):
                return
            blob, self._pieces = b"".join(self._pieces), []
        match header["kind"]:
            case "notes":
                for note in header["notes"]:
                    self._on_note(note)
            case "events":
                self._on_events(header["at"], EventLog.decode_some(blob))
            case "result" | "partial":
                self._values[header["kind"]] = blob
            case "end":
                self._on_end(*end_of(json.loads(blob)))
            case kind:
                raise BrokenStream(f"an item of kind {kind!r}")

    def _on_note(self, note: dict[str, Any]) -> None:
        if note.get("span") is not None:
            if self.job.trace is not None:
                self.job.trace.note_reported(note["span"].encode())
            return
        cause = Cause(note["cause"])
        if cause is Cause.ASSIGNED:
            self._has_worker = True
            self._stop_timer()
            self._take_back_wait()
            self.job.worker_id, self.job.pid = f"{self._orders.name}.{note['worker_id']}", note["pid"]
        else:
            if self._verdict is None and note.get("verdict") is not None:
                self.job.verdict = self._told = Verdict(**note["verdict"])
                self._grace_s = self.job.limits["grace_s"] if cause is Cause.STOP_REQUESTED else 0.0
            self._transition(cause)

    def _transition(self, cause: Cause) -> None:
        """Repeat a transition of the node."""
        if cause in TABLE[self.job.state]:
            self._owner.transition(self.job, cause)

    def _on_events(self, at: int, batch: Batch) -> None:
        """Add events to the job's log, where they have the same ids. What came before is left out."""
        job, log = self.job, self.job.log
        if at > len(log):
            raise BrokenStream(f"event {at} was received, {len(log)} was expected")
        for name, group in groupby(batch[len(log) - at :], key=_NAME):
            events = list(group)
            match name:
                case "started":
                    self._owner.on_entered(self)
                case "token" | "log":
                    tokens = log.tokens
                    log.append_output(events, sum(map(len, map(_DATA, events))))
                    if not tokens and log.tokens:
                        self._owner.on_first_token(self)
                case "progress":
                    for _, data in events:
                        job.note_progress(data)
                case "checkpoint":
                    for _, data in events:
                        job.note_checkpoint(data)
        job.wake()

    def _on_end(self, outcome: Outcome, certificate: Certificate, may_retry: bool) -> None:
        job = self.job
        if certificate.slot_ready is not None:
            self.on_slot_ready(certificate.slot_ready)
        self.worker.worker_stays = certificate.exited is None
        relayed = None if self._asked_at is None else round((self._clock.now() - self._asked_at) * 1000, 3)
        self.certificate = certificate._replace(slot_ready=None, node=self._orders.name, relayed=relayed)
        job.result = self._values.get("result")
        job.partial = self._values.get("partial", job.partial)
        # Else it was stopped, so its node tries nothing again; whether another one does is known here. What is drained
        # may have been stopped by an earlier head.
        if self._asked is None and outcome.code != "node_drained":
            job.may_retry = job.may_retry and may_retry
        if outcome.code == "timeout.queue":  # it has waited on its node for a worker: it does not begin to wait anew
            job.may_retry = False
        if certificate.requested is not None and (self._asked is None or certificate.cause != self._asked.code):
            # A deadline or a limit, decided by the node.
            job.verdict = Verdict(certificate.cause, by=certificate.by, reason=certificate.reason)
        self._finish(outcome)

    def on_node_lost(self, facts: dict[str, Any], how: str) -> None:
        """End it: nothing of it runs any more, and nobody will tell how it ended."""
        if self.is_over:
            return
        name = self._orders.name
        self._take_back_wait()
        verdict = self._verdict
        if verdict is None:
            outcome = Outcome("failed", "node_lost", f"node {name} was lost: {how}", {"node": name, **facts})
        else:
            told = {"by": verdict.by, "reason": verdict.reason, "node": name} | without_message(verdict.facts) | facts
            outcome = Outcome(terminal_state_of(verdict.code), verdict.code, message_of(verdict), told)
        self._leave_gap()
        log = self.job.log
        unproven = f"its node was lost: {how}"
        last = len(log) - 1 if len(log) else None
        self.certificate = self.certificate_so_far()._replace(unproven=unproven, tokens=log.tokens, last_sequence=last)
        self._finish(outcome)

    def _leave_gap(self) -> None:
        """Leave the ids of events out that an earlier head has told, and that were to be told again."""
        job = self.job
        if len(job.log) >= self._events:
            return
        if job.shown is None:  # else nobody has seen what is not in the journal
            job.log = EventLog(job.log.output_bytes_max, self._events)
        job.may_retry = False  # whether it has streamed something is not known

    def on_broken(self, why: str) -> None:
        """End it at its node: what it has sent is not whole."""
        self.stop(Verdict("protocol", by="supervisor", facts={"message": f"node {self._orders.name}: {why}"}), 0.0)

    def _finish(self, outcome: Outcome) -> None:
        self.is_over = True
        self._stop_timer()
        if self.job.state is not State.SWEEPING:
            self._transition(Cause.EXITED)
        self._owner.on_ended(self, outcome)
