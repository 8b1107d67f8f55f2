"""One run of a job on a worker: handles the worker's messages, the time limits and the end.

Runs in: supervisor. The policies are in `deadlines`, `escalation` and `exit_outcome`; this module feeds them with time
and messages. The attempt owns what it started: the caller that requested a stop may go away.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import Protocol

from killable.supervisor.attempts import exit_outcome
from killable.supervisor.attempts.certificate import PhaseTimes
from killable.supervisor.attempts.deadlines import NEVER, Deadlines, OperationExpiry
from killable.supervisor.attempts.escalation import RESEND_S, Rules
from killable.supervisor.attempts.exit_outcome import Evidence
from killable.supervisor.attempts.resource_monitor import ResourceMonitor
from killable.supervisor.attempts.run_order import is_announced, run_order
from killable.supervisor.attempts.termination import LEAVE_S, SIGTERM, Termination
from killable.supervisor.attempts.tmp_monitor import TmpMonitor
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.jobs import payload_checks
from killable.supervisor.jobs.event_log import Batch
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_output import JobOutput, too_much
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import Certificate, ExitStatus, Outcome, Verdict
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import Gone
from killable.workers.protocol.frames import Frame, encode
from killable.workers.protocol.message_bounds import PIPE_BYTES, SAVED_FILES_MAX
from killable.workers.protocol.messages import (
    NOTIFY_EXPIRED,
    NOTIFY_SWALLOWED,
    RAN_SECONDS,
    Entered,
    Expire,
    Idle,
    Kind,
    OperationEntered,
    OperationLeft,
    Raised,
    SavedFile,
)

ROUSE_S = 1.0
"""Time for a worker to enter its job before it is continued, in case it was stopped while it was idle."""

_TOKEN = int(Kind.TOKEN)
_NOTHING_YET = Certificate()
_VALUES = frozenset({Kind.RESULT, Kind.CHECKPOINT, Kind.PROGRESS})
_CLOSING = frozenset({Kind.RESULT, Kind.RESULT_SHM, Kind.RAISED})


class AttemptOwner(Protocol):
    """The dispatcher, as an attempt sees it. Only the dispatcher stores states."""

    def transition(self, job: Job, cause: Cause) -> None: ...
    def on_entered(self, attempt: Attempt) -> None: ...
    def on_first_token(self, attempt: Attempt) -> None: ...
    def on_ended(self, attempt: Attempt, outcome: Outcome) -> None: ...


class Attempt:
    """One attempt, from the order to run until its process tree is gone."""

    def __init__(
        self, job: Job, worker: Worker, fence: int, *, clock: Clock, owner: AttemptOwner, rules: Rules
    ) -> None:
        self.job = job
        self.worker = worker
        self.fence = fence
        self._clock = clock
        self._owner = owner
        self._sequence = 0
        self._json = job.type.codec == "json"
        self._output = JobOutput(job.log, lambda: owner.on_first_token(self))
        self._phase_times = PhaseTimes()
        self._deadlines = Deadlines(job.limits)
        self._termination = Termination(
            worker, fence, rules, self._phase_times, clock, on_kill=self._on_kill, on_unkillable=self._give_up
        )
        self._timer: Timer | None = None
        self._resend_at: float | None = None
        self._rouse_at: float | None = None
        self._monitor = ResourceMonitor(worker.process, job.limits, clock, rules.cores, self.stop)
        self._tmp_monitor = TmpMonitor(worker.process, job.limits, clock, self.stop)
        self._leave_at: float | None = None
        self._give_up_at: float | None = None
        self._entered = self._over = self._holds_output = False
        self._closing: bytes | Raised | None = None
        self._protocol_error = ""
        self._stack: str | None = None
        self._asked: Verdict | None = None
        """The first verdict for which it was asked to end. The outcome may be another one."""
        self._operation: str | None = None
        """The operation that it was in at that time."""
        self.certificate = _NOTHING_YET

    def begin(self, *, has_order: bool = False) -> None:
        """Send the order, unless a caller's thread has sent it (`has_order`). From here on `start_s` runs."""
        worker, process = self.worker, self.worker.process
        try:
            if not has_order:
                process.hold(self.fence)
                process.note_before()
            self._monitor.prepare(has_order=has_order)
            if not has_order:
                result_buffer = -1 if self._json else worker.result_buffer_to_pass()
                process.send(*run_order(self.job, self.fence, result_buffer))
            if not self._json:
                worker.note_result_buffer_passed()
            self._monitor.begin(self.job.assigned or self._clock.now())
            self._tmp_monitor.begin()
        finally:  # even if the order failed: a job without a deadline would hold its slot for ever
            self._deadlines.assigned(self._clock.now(), self.job.created)
            if is_announced(self.job):
                self._rouse_at = self._clock.now() + ROUSE_S
                self._arm()
            else:
                self._on_entered(Entered())

    # ── stopping ──

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None:
        """Start to end the attempt; if it is ending already, only shorten its grace. The first verdict stays."""
        job = self.job
        if self._termination.has_begun and grace_s is not None:
            self._termination.shorten(grace_s)
            self._arm()
        if self._is_ending:
            return  # the first cause stays; after the job has ended by itself a stop comes too late
        job.verdict = self._asked = verdict
        self._phase_times.note("requested", self._clock.now() if verdict.requested_at is None else verdict.requested_at)
        self._operation = self._deadlines.operation
        grace = job.limits["grace_s"] if grace_s is None else min(grace_s, job.limits["grace_s"])
        self._deadlines.clear()
        self._resend_at = self._rouse_at = None  # from here on the plan decides when to resend and to continue it
        self._termination.begin(verdict, grace)
        self.hold_output(held=False)  # a job that waits in its write could not end
        self._arm()
        if grace > 0:  # SIGTERM was sent; without a grace it is SIGKILL, which `_on_kill` reports
            self._owner.transition(job, Cause.STOP_REQUESTED)

    @property
    def _is_ending(self) -> bool:
        """Whether it is being ended or has ended by itself: the job's deadlines no longer count."""
        return self._termination.has_begun or self._closing is not None or "exited" in self._phase_times

    @property
    def grace_s(self) -> float | None:
        """The grace period in force, in seconds; None while the attempt is not being ended."""
        return self._termination.grace_s

    def _on_kill(self) -> None:
        self._owner.transition(self.job, Cause.KILL_DUE)

    def _give_up(self) -> None:
        """Finish although the process survived SIGKILL, so that other jobs can go on."""
        self._termination.give_up()
        unkillable_s = self._termination.rules.unkillable_s
        message = f"the process still exists {unkillable_s:g} s after SIGKILL: its slot is quarantined"
        self.job.verdict = Verdict("unkillable", by="supervisor", facts={"message": message})
        self.worker.quarantine()
        self._phase_times.note_unkillable()
        self._finish(None)

    def _signal_expiry(self, operation: OperationExpiry) -> None:
        """Make the worker raise `OperationTimedOut` in the job."""
        if not operation.again:
            self.worker.process.send(encode(Kind.EXPIRE, self.fence, 0, Expire(operation.number).encode()))
            self.worker.signalled = True
        self._resend(again=operation.again)

    def _resend(self, *, again: bool = True) -> None:
        if not (again and self._termination.rules.has_own_handler):
            self.worker.process.terminate(self.fence)

    def kill_now(self, verdict: Verdict) -> None:
        """Send SIGKILL, from any thread, if the worker still holds this attempt. The supervisor is informed later."""
        self.worker.process.kill_now(self.fence, verdict)

    # ── messages from the worker ──

    def on_frames(self, frames: list[Frame]) -> None:
        """Process the frames of one read: consecutive tokens as a batch, all others one by one."""
        tokens: Batch = []
        size = 0
        for kind, fence, sequence, payload in frames:
            if self._protocol_error or self._over:
                break  # not even a result counts: after the exit `stop` sets no verdict that would outweigh it
            if fence != self.fence:
                continue  # a late frame of an earlier attempt
            if sequence != self._sequence:
                self._fail_protocol(f"frame {sequence} was received, {self._sequence} was expected")
                break
            self._sequence += 1
            if kind == _TOKEN:
                if not self._entered or (self._json and not payload_checks.is_one_line(payload)):
                    self._fail_protocol("an invalid token: before the job was entered, or with a line end")
                    break
                tokens.append(("token", payload))
                size += len(payload)
                continue
            self._on_tokens(tokens, size)
            if tokens and kind in _CLOSING:
                self.job.wake()  # who reads them need not wait until the end is worked out
            tokens, size = [], 0
            self._on_message(kind, payload)
        self._on_tokens(tokens, size)
        if self._leave_at is not None:
            self._arm()  # not before: IDLE mostly comes in the same read as the closing frame
        self.job.wake()

    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None:
        """Process tokens that follow each other, as `on_frames` does."""
        if self._protocol_error or self._over or fence != self.fence:
            return
        data = b"".join(tokens)
        if sequence != self._sequence or not self._entered or (self._json and not payload_checks.is_one_line(data)):
            self._fail_protocol("an invalid token: out of order, before the job was entered, or with a line end")
            return
        self._sequence += len(tokens)
        self._on_tokens(list(zip(repeat("token"), tokens)), len(data))
        self.job.wake()

    def _on_tokens(self, tokens: Batch, size: int) -> None:
        if not tokens:
            return
        if not self._output.tokens(tokens, size):
            self._stop_for_output()
        if not self._is_ending and self._deadlines.tokens(self._clock.now()):
            self._arm()

    def _on_message(self, kind: int, payload: bytes) -> None:
        is_value = not self._json or kind not in _VALUES or payload_checks.is_value(payload)
        try:
            match kind:
                case Kind.ENTERED if not self._entered and self._closing is None:
                    self._on_entered(Entered.decode(payload))
                case Kind.RESULT if self._entered and self._closing is None and is_value:
                    self._on_closing(payload)
                case Kind.RESULT_SHM if self._entered and self._closing is None and not self._json:
                    self.job.shared_result = self.worker.take_result_buffer()
                    self._on_closing(payload)
                case Kind.RAN if self._entered and self._closing is None and not self._json:
                    self._on_closing(payload[struct.calcsize(RAN_SECONDS) :])
                    self.worker.last = self.fence
                    self._on_idle(Idle(reusable=True))
                case Kind.RAISED if self._closing is None:
                    self._on_closing(Raised.decode(payload))
                case Kind.IDLE if self._closing is not None:
                    self.worker.last = -self.fence
                    self._on_idle(Idle.decode(payload))
                case Kind.OPERATION if self._entered:
                    self._on_operation(OperationEntered.decode(payload))
                case Kind.OPERATION_LEFT if self._entered:
                    self._deadlines.operation_left(OperationLeft.decode(payload).number)
                case Kind.PROGRESS if self._entered and is_value:
                    if not self.job.note_progress(payload):
                        self._stop_for_output()
                case Kind.CHECKPOINT if self._entered and is_value:
                    if not self.job.note_checkpoint(payload):
                        self._stop_for_output()
                case Kind.FILE if self._entered and self._closing is None and self.job.files_folder:
                    self._on_file(SavedFile.decode(payload))
                case Kind.SPAN if self._closing is None:
                    if self.job.trace is not None:
                        self.job.trace.note_reported(payload)
                    elif self.job.listener is not None:  # on a node, which tells its head
                        self.job.listener.on_logged(self.job, kind, payload)
                case Kind.LOG_RECORD | Kind.WARNING if self._closing is None and self.job.listener is not None:
                    self.job.listener.on_logged(self.job, kind, payload)
                case Kind.TOKENS if self._entered and self._closing is None:
                    pass  # the reader of the frames has passed them on
                case _:
                    self._fail_protocol(f"an unexpected frame of kind {kind}")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self._fail_protocol(f"an invalid frame of kind {kind}: {error!s:.200}")

    def _on_entered(self, entered: Entered) -> None:
        self._entered = True
        self._rouse_at = None
        self._owner.transition(self.job, Cause.ENTERED)
        self._owner.on_entered(self)
        if not self._output.open():
            self._stop_for_output()
        if not self._is_ending:
            # The worker's own time counts, clamped to what is possible: the frame may have been read late.
            now = self._clock.now()
            at = now if entered.at is None else max(self.job.assigned or now, min(entered.at, now))
            self._deadlines.entered(at)
            self._arm()

    def _on_operation(self, entered: OperationEntered) -> None:
        self._deadlines.operation_entered(entered, self._clock.now())
        if self._is_ending:
            self._deadlines.clear()  # in its grace no new deadline counts
        self._arm()

    def _on_file(self, saved: SavedFile) -> None:
        """Take over a file that the job has saved."""
        job = self.job
        if saved.name not in job.files and len(job.files) >= SAVED_FILES_MAX:
            raise ValueError(f"more than {SAVED_FILES_MAX} files")
        try:
            size = self.worker.process.keep_file(saved.number, f"{job.files_folder}/{saved.name}")
        except OSError as error:
            raise ValueError(f"the file {saved.name!r} cannot be kept: {error}") from error
        if not job.note_file(saved.name, size, saved.content_type):
            self._stop_for_output()
        self._tmp_monitor.note_kept(job.files_bytes, job.files_folder)

    def _on_closing(self, closing: bytes | Raised) -> None:
        self._closing = closing
        self._deadlines.clear()
        if "exited" not in self._phase_times:  # else the frame was read after the exit
            self._leave_at = self._clock.now() + LEAVE_S
        self._owner.transition(self.job, Cause.CLOSED)

    def _on_idle(self, idle: Idle) -> None:
        """Handle the worker's last message about this attempt: it is free, or it ends now."""
        self.worker.process.read_output()  # printed before this frame; notifications: none, or read at the exit
        may_be_reused = idle.reusable and self.worker.may_be_reused and "exited" not in self._phase_times
        if may_be_reused and self.worker.process.release():
            self._phase_times.note_kept(self._clock.now())
            self._finish(None)
            return
        self.worker.retire(idle.why)

    def _fail_protocol(self, why: str) -> None:
        """Stop the attempt after a protocol error; nothing that follows is believed."""
        if not self._protocol_error:
            self._protocol_error = why
            self._closing = None
            self.stop(Verdict("protocol", by="supervisor", facts={"message": why}), grace_s=0)

    on_protocol_error = _fail_protocol

    def on_output(self, data: bytes, stream: str = "stdout") -> None:
        if not self._output.output(data, stream):
            self._stop_for_output()
        if self.job.listener is not None:
            self.job.listener.on_output(self.job, data, stream)
        self.job.wake()

    def hold_output(self, *, held: bool) -> None:
        held = held and not self._is_ending  # its last output must not wait for others
        if held != self._holds_output and not self._over:
            self._holds_output = held
            self.worker.process.hold_output(held=held)

    def _stop_for_output(self) -> None:
        if self.job.verdict is not None:
            return
        verdict = too_much(self.job.limits["output_bytes"])
        if self._closing is not None or "exited" in self._phase_times:
            self.job.verdict = verdict  # found while the rest was read
        else:
            self.stop(verdict)

    def on_notifications(self, notifications: bytes) -> None:
        if SIGTERM in notifications:
            self._deadlines.delivered(self._clock.now())
        if NOTIFY_EXPIRED in notifications:
            self._deadlines.heard(self._clock.now(), notifications.count(NOTIFY_EXPIRED))
        if NOTIFY_SWALLOWED in notifications and not self._termination.has_begun and self._deadlines.noticed:
            self._resend_at = self._clock.now() + RESEND_S
        self._termination.on_notifications(notifications)
        self._arm()

    def on_exited(self) -> None:
        now = self._clock.now()
        self._phase_times.note("exited", now)
        self._monitor.close()
        self._tmp_monitor.close()
        self._stack = self.worker.process.stack()
        self._deadlines.clear()
        self._resend_at = self._leave_at = None
        self._give_up_at = now + self._termination.rules.unkillable_s
        self._termination.on_exited()
        self._owner.transition(self.job, Cause.EXITED)
        self._arm()

    def on_gone(self, gone: Gone) -> None:
        """Classify the end: the tree is empty and the pipes are read to the end."""
        ending = gone.ending
        status = ExitStatus() if ending is None else ExitStatus(ending.exit_code, ending.signal, ending.core_dumped)
        self._phase_times.note_gone(gone, status, self._clock.now())
        known = {"entered": self._entered, "unpickles": not self._json}
        evidence = Evidence.of(gone, self.job.limits, self._protocol_error, self._deadlines, **known)
        self._finish(status, evidence)

    # ── the end ──

    def _finish(self, status: ExitStatus | None, evidence: Evidence | None = None) -> None:
        if self._over:
            return  # it was quarantined, and is gone after all
        self.hold_output(held=False)  # the worker may get another attempt
        self._over = True
        self._monitor.close()
        self._tmp_monitor.close()
        self._termination.close()
        self._arm()
        if not self._output.close():
            self._stop_for_output()
        job = self.job
        outcome = exit_outcome.classify(job.verdict, self._closing, status or ExitStatus(), evidence or Evidence())
        job.note_closing(self._closing, completed=outcome.state == "completed")
        if job.files:
            job.note_sizes(self.worker.process.kept_sizes(job.files_folder, job.files))
        self.certificate = self.certificate_so_far()
        self._owner.on_ended(self, outcome)

    def certificate_so_far(self) -> Certificate:
        """Return the certificate of what has happened so far; a missing phase may still come."""
        verdict = self._asked or self.job.verdict or Verdict("")
        return self._phase_times.certificate(
            early_kill=self._termination.early_kill,
            lingered=self._termination.lingered or None,
            cause=verdict.code,
            by=verdict.by,
            reason=verdict.reason,
            grace_s=self.grace_s,
            last_signal=self._termination.last_signal,
            stack=self._stack,
            operation=self._deadlines.operation if self._operation is None else self._operation,
            tokens=self.job.log.tokens,
            last_sequence=len(self.job.log) - 1 if len(self.job.log) else None,
        )

    def slot_ready_ms(self, now: float) -> float:
        """Return how many ms after the request (or the exit) the next worker of the slot was warm."""
        return self._phase_times.since_start_ms(now)

    # ── time ──

    def _arm(self) -> None:
        """Set the one timer to the earliest moment; set none when the attempt is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._over:
            return
        moments = (
            self._deadlines.wake_at,
            self._termination.wake_at,
            self._resend_at,
            self._rouse_at,
            self._leave_at,
            self._give_up_at,
        )
        due = min([moment for moment in moments if moment is not None])
        if due != NEVER:
            self._timer = self._clock.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        """Decide what is due, all at the same `now`. The timer may be late: read messages and the exit first."""
        self._timer = None
        now, process = self._clock.now(), self.worker.process
        use = self._termination.processor_use()  # measured before the pipes are read: an answer may be in them
        process.read_ready(PIPE_BYTES)
        process.look_for_exit()
        if self._over:
            return
        due = self._deadlines.due(now)
        if isinstance(due, Verdict):
            self.stop(due)
        elif due is not None:
            self._signal_expiry(due)
        elif self._give_up_at is not None and now >= self._give_up_at:
            self._give_up()
        elif self._leave_at is not None and now >= self._leave_at:
            self._leave_at = None
            if not self._termination.has_begun:
                self._give_up_at = now + self._termination.rules.unkillable_s
            self._termination.end_lingering()
        elif self._rouse_at is not None and now >= self._rouse_at:
            self._rouse_at = None
            process.rouse(self.fence)  # who stopped it while it was idle did not mean the job, which waits
        elif self._resend_at is not None and now >= self._resend_at:
            self._resend_at = None
            self._resend()
        else:
            self._termination.tick(now, use)
        self._arm()
