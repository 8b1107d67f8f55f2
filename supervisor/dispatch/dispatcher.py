"""Gives jobs to workers and ends them: the only one that stores their states.

Runs in: supervisor. Everything here is synchronous: no coroutine ever waits in the middle of a kill.

    enqueue ─► Backlog ─► dispatch ─► Attempt ─► on_entered … on_ended ─► the terminal event
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from killable.supervisor.attempts import exit_outcome
from killable.supervisor.attempts.attempt import Attempt
from killable.supervisor.attempts.escalation import Rules
from killable.supervisor.clock import Clock
from killable.supervisor.dispatch import retries
from killable.supervisor.dispatch.drain import Drain
from killable.supervisor.jobs import job_events, lifecycle
from killable.supervisor.jobs.backlog import Backlog
from killable.supervisor.jobs.job import Entry
from killable.supervisor.jobs.lifecycle import DECIDED, Cause, State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import JobType, Outcome, Verdict
from killable.supervisor.pools.fleet import Fleet
from killable.supervisor.pools.lease import Borrower, Loan
from killable.supervisor.pools.pool import Pool
from killable.supervisor.pools.worker import Stage, Worker
from killable.supervisor.settings import Settings, usable_cores
from killable.supervisor.stack import pointed
from killable.supervisor.telemetry.observer import Observer

if TYPE_CHECKING:
    from killable.supervisor.journal.journal_writer import Chronicle


class Dispatcher:
    """The owner of every attempt and, in what concerns jobs, of every pool."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        drain: Drain,
        observer: Observer,
        borrower: Borrower | None = None,
    ) -> None:
        """`borrower` may give lent workers orders, in any thread (`loan`)."""
        self._settings = settings
        self._registry = registry
        self._drain = drain
        self._observer = observer
        self.backlog = Backlog(settings.queue_jobs_max, settings.queue_bytes_max)
        self.fleet = Fleet(settings, self)
        self._fences = 0
        self._cores = usable_cores()
        self._closing = False
        self._borrower = borrower
        self._chronicle: Chronicle | None = None

    def start(self, clock: Clock, chronicle: Chronicle | None = None) -> None:
        """Set the clock that everything here goes by, and who writes down what becomes of jobs."""
        self._clock = clock
        self._chronicle = chronicle

    def close(self) -> None:
        """Give no more jobs to workers."""
        self._closing = True

    def enqueue(self, entry: Entry) -> None:
        """Queue a new job; it leaves the queue at once when a worker is warm, or when there can be none."""
        if self._push(entry):
            self._let_wait(entry)

    def _push(self, entry: Entry) -> bool:
        """Put a job in the queue; False: it can have no worker, and has ended."""
        pool, submission, total_s = self.fleet.pool_of(entry.type), entry.submission, entry.limits.total_s
        self.backlog.push(
            entry.id,
            pool=pool.spec.name,
            tenant=submission.tenant,
            priority=submission.priority,
            input_bytes=len(submission.input),
        )
        if total_s is not None and entry.created + total_s <= self._clock.now():  # of an earlier run of the server
            self._on_queue_deadline(entry, "total_s")
        elif not entry.type.available:
            self._decide_queued(entry, Verdict("spawn", facts={"message": entry.type.unavailable_reason}))
        elif pool.state == "broken":
            self._decide_queued(entry, _spawn_verdict(pool))
        return entry.state is State.QUEUED

    def _let_wait(self, entry: Entry) -> None:
        """Give it a worker, if its turn has come, else let its time run."""
        self.on_worker_available(self.fleet.pool_of(entry.type))
        if entry.state is State.QUEUED:
            limit, due = _queue_deadline(entry)
            if limit:
                entry.queue_timer = self._clock.call_at(due, lambda: self._on_queue_deadline_soon(entry, limit))

    def place_of(self, entry: Entry) -> dict[str, Any] | None:
        """Return how long the queue is before a job that waits; without a position it is not in there yet."""
        if entry.state is not State.QUEUED:
            return None
        position = self.backlog.position(entry.id)
        wait_s = self.fleet.run_times_of(entry.type).estimate_wait_s(position or 0)
        return {"position": position, "estimated_wait_s": wait_s}

    def resume(self, entries: Iterable[Entry]) -> None:
        """Queue again what waited when a server died: all of it before any of it has a worker, for the order's sake."""
        for entry in [entry for entry in entries if self._push(entry)]:
            self._let_wait(entry)

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """End a job that never was at work here: another server had it."""
        self._end(entry, outcome)

    def stop_all(self, reason: str, grace_s: float | None) -> list[Entry]:
        """Begin to end every job."""
        active = self._registry.active()
        self.stop_these(active, Verdict("cancelled", by="shutdown", reason=reason), grace_s)
        return active

    def stop_these(self, entries: Iterable[Entry], verdict: Verdict, grace_s: float | None) -> None:
        """Begin to end all of these, in one turn of the loop: no worker that becomes free is given one of them.

        Signals first: to end a thousand that wait takes a while.
        """
        for entry in sorted(entries, key=lambda entry: entry.state is State.QUEUED):
            self.stop(entry, verdict, grace_s)

    def transition(self, entry: Entry, cause: Cause) -> None:
        """Store a job's next state: the only line that does."""
        entry.state = lifecycle.step(entry.state, cause)
        self._observer.on_transition(entry, cause)

    def _dispatch(self, pool: Pool) -> None:
        """Give waiting jobs to warm workers."""
        name = pool.spec.name
        while self.backlog.depth(name):
            worker = pool.take()
            if worker is None:
                break
            job_id = self.backlog.pop(name)
            assert job_id is not None
            entry = self._registry.get(job_id)
            if entry.listener is None or entry.listener.on_assigned(entry):
                self._assign(entry, worker)
            else:
                pool.give_back(worker)
                self._decide_queued(entry, Verdict("cancelled", by="user"))
        if self._borrower is not None and not self.backlog.depth(name):
            for worker, quiet in pool.to_lend():
                self._borrower.on_lent(worker.lend(self._next_fence(), quiet=quiet))
        pool.fill_soon()

    def lend(self) -> None:
        """Lend what is idle, and fork what is missing: its borrower has calls that wait."""
        for pool in self.fleet:
            self.on_worker_available(pool)

    def _next_fence(self) -> int:
        self._fences = (self._fences % 0xFFFFFFFF) + 1
        return self._fences

    def adopt(self, entry: Entry, loan: Loan) -> None:
        """A caller's thread has given a lent worker its order: from here on the attempt is like any other."""
        pool, worker = self.fleet.worker(loan.worker_id)
        pool.withdraw(worker)
        self._assign(entry, worker, loan)
        pool.fill_soon()

    def _assign(self, entry: Entry, worker: Worker, loan: Loan | None = None) -> None:
        entry.leave_queue()
        entry.assigned = self._clock.now() if loan is None else loan.given_at
        entry.attempts += 1
        entry.worker_id, entry.pid = worker.id, worker.process.pid
        rules = Rules(
            grace_s=entry.limits.grace_s,
            ack_s=entry.limits.ack_s,
            ack_cpu_s=self._settings.ack_cpu_s,
            unkillable_s=self._settings.unkillable_s,
            cores=self._cores,
            stack=self._settings.stack,
        )
        fence = self._next_fence() if loan is None else loan.fence
        attempt = Attempt(entry, worker, fence, clock=self._clock, owner=self, rules=rules)
        entry.attempt = attempt
        worker.take(attempt)
        self.transition(entry, Cause.ASSIGNED)
        attempt.begin(has_order=loan is not None)
        self._observer.on_left_queue(entry, entry.assigned)  # behind the order: it need not wait for a histogram
        if entry.is_call and entry.attempts > 1:
            entry.wake()  # another process has it, and may say nothing before its result
        if self._chronicle is not None:
            self._chronicle.begun(entry, self._clock.wall())

    def stop(self, entry: Entry, verdict: Verdict, grace_s: float | None) -> None:
        """End a job whatever its state is; harmless when it has ended or is ending."""
        if entry.is_over:
            return
        self._observer.on_cancel_asked(entry, verdict, grace_s)
        entry.may_run_again = False
        if entry.state is State.QUEUED:
            self._decide_queued(entry, verdict)
        elif entry.attempt is not None:
            entry.attempt.stop(verdict, grace_s)

    def _decide_queued(self, entry: Entry, verdict: Verdict) -> None:
        """End a job that never had a worker."""
        self.backlog.remove(entry.id)
        entry.verdict = verdict
        facts = exit_outcome.without_message(verdict.facts)
        if verdict.by:
            facts.update(by=verdict.by, reason=verdict.reason)
        entry.certificate = {"requested": 0.0, "cause": verdict.code, "by": verdict.by, "reason": verdict.reason}
        self._end(
            entry,
            Outcome(lifecycle.terminal_state_of(verdict.code), verdict.code, exit_outcome.message_of(verdict), facts),
        )

    def _on_queue_deadline_soon(self, entry: Entry, limit: str) -> None:
        """Hear first what there is to be heard: this turn of the loop may be late, and a worker have become free."""
        entry.queue_timer = self._clock.call_at(self._clock.now(), lambda: self._on_queue_deadline(entry, limit))

    def _on_queue_deadline(self, entry: Entry, limit: str) -> None:
        if entry.state is State.QUEUED:
            limit_s = getattr(entry.limits, limit)
            self._observer.on_left_queue(entry, self._clock.now())
            facts = {"limit": limit, "limit_s": limit_s, "message": f"{limit} of {limit_s:g} s is over"}
            self._decide_queued(entry, Verdict("timeout.queue", facts=facts))

    def on_entered(self, attempt: Attempt) -> None:
        entry = attempt.entry
        entry.started_at = self._clock.wall()
        entry.started = self._clock.now()
        job_events.note_start(entry)
        self._observer.on_entered(entry)

    def on_first_token(self, attempt: Attempt) -> None:
        self._observer.on_first_token(attempt.entry, self._clock.now())

    def on_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """The attempt's tree is proven empty (or given up): publish, free the slot, go on."""
        entry, worker = attempt.entry, attempt.worker
        pool = self.fleet.pool_of(entry.type)
        entry.certificate = certificate = attempt.certificate.as_json()
        if worker.stage is Stage.BUSY:
            worker.release()
        if worker.stage is not Stage.QUARANTINED:  # its slot is not ready, however warm the others are
            pool.when_warm(lambda: self._note_slot_ready(attempt, certificate))
        if entry.started is not None:
            self.fleet.run_times_of(entry.type).note(self._clock.now() - entry.started)
        wait_s = self._wait_before_next(entry, outcome)
        if wait_s is None:
            self._end(entry, outcome)
        else:
            self._begin_again(entry, outcome, wait_s)

    def _note_slot_ready(self, attempt: Attempt, certificate: dict[str, Any]) -> None:
        certificate["slot_ready"] = slot_ready_ms = attempt.slot_ready_ms(self._clock.now())
        if attempt.worker.stage is Stage.GONE and "tree_empty" in certificate:
            self._observer.on_recovered((slot_ready_ms - certificate["tree_empty"]) / 1000)
        if self._chronicle is not None and attempt.entry.certificate is certificate and attempt.entry.is_over:
            self._chronicle.amended(attempt.entry)

    def _wait_before_next(self, entry: Entry, outcome: Outcome) -> float | None:
        """Return the seconds until the job is to be run again; None: this is its end."""
        limits = entry.limits
        if not entry.may_run_again or limits.attempts_max == 1:
            return None
        left_s = math.inf if limits.total_s is None else entry.created + limits.total_s - self._clock.now()
        streamed, share = bool(entry.log.tokens or entry.log.overflowed), retries.share_of(entry.number)
        return retries.wait_s(outcome, limits, entry.attempts, streamed=streamed, left_s=left_s, share=share)

    def _begin_again(self, entry: Entry, outcome: Outcome, wait_s: float) -> None:
        """Its attempt is over, and another one follows: until then it waits outside of the queue."""
        now = self._clock.now()
        self._observer.on_retrying(entry, outcome, wait_s)
        job_events.note_retry(entry, outcome, wait_s)
        self.transition(entry, Cause.REQUEUED)
        entry.begin_again(now)
        if self._chronicle is not None:
            self._chronicle.waits(entry)
        entry.queue_timer = self._clock.call_at(now + wait_s, lambda: self._queue_again(entry))
        entry.wake()

    def _queue_again(self, entry: Entry) -> None:
        entry.queued, entry.queue_timer = self._clock.now(), None
        self.enqueue(entry)

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        self.conclude(entry, outcome)
        self._observer.on_ended(entry)
        if self._chronicle is not None:
            self._chronicle.ended(entry)
        self._registry.note_end(entry, entry.ended or self._clock.now())
        entry.wake()
        self.note_fewer()

    def conclude(self, entry: Entry, outcome: Outcome) -> None:
        """Decide once; the terminal event is the job's last and comes from what is recorded here."""
        entry.leave_queue()
        self.transition(entry, DECIDED[outcome.state])
        entry.outcome = outcome
        entry.attempt = None
        entry.ended_at, entry.ended = self._clock.wall(), self._clock.now()
        job_events.note_end(entry)
        entry.forget_input()

    def note_fewer(self) -> None:
        """A job is over: at a shutdown it may have been the last."""
        if self._drain.shutting_down and not self._registry.has_active():
            self._drain.set_due()

    # ── FleetOwner ──

    def on_types(self, types: Sequence[JobType]) -> None:
        self._observer.on_types(job_type.name for job_type in types)

    def on_worker_available(self, pool: Pool) -> None:
        if not self._closing:
            self._dispatch(pool)

    def on_pool_broken(self, pool: Pool) -> None:
        for job_id in self.backlog.jobs_of(pool.spec.name):
            self._decide_queued(self._registry.get(job_id), _spawn_verdict(pool))
        if self._borrower is not None:
            self._borrower.on_pool_broken()

    def queued(self, pool: Pool) -> int:
        return self.backlog.depth(pool.spec.name) + (0 if self._borrower is None else self._borrower.waiting)


def _queue_deadline(entry: Entry) -> tuple[str, float]:
    """Return which limit ends its waiting, and when; nothing: it may wait for ever."""
    queue_s, total_s = entry.limits.queue_s, entry.limits.total_s
    due = math.inf if queue_s is None else entry.queued + queue_s
    if total_s is not None and entry.created + total_s <= due:
        return "total_s", entry.created + total_s
    return "" if queue_s is None else "queue_s", due


def _spawn_verdict(pool: Pool) -> Verdict:
    message = f"pool {pool.spec.name} is broken: {pointed(pool.detail)}"
    return Verdict("spawn", facts={"message": message, "errno": pool.errno})
