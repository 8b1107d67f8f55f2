"""Submissions as the client makes them: sent with a key, run against a deadline, and undone when their caller leaves.

Runs in: any machine (no supervisor, no Linux).

Every submission carries an idempotency key. Sent again it is the same job, so one that was cut off can be retried, and
one whose caller is gone can be found and cancelled: sending it once more gives the id, whether or not it had arrived.
"""

from __future__ import annotations

import builtins
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from killable.api.client.exchange import HttpCall, json_of, was_sent
from killable.api.client.job_calls import LEAVE_ANSWER_S, LEAVE_S, JobCalls
from killable.api.client.outcomes import Ending, NotEnded, Unreachable
from killable.api.client.retries import UNSEEN, Asking, Flow
from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.authoring.limits import LIMITS, parse_limit
from killable.workers.errors import JobTimedOut, KillableError, Refused


class JobOptions(TypedDict, total=False):
    """What may be said about a job beside its type and input; each member is a keyword of `submit` and `run`."""

    limits: Mapping[str, Any] | None
    """As `{"run_s": 60, "memory_bytes": 2 << 30}`, or `{"run_s": "1m", "memory_bytes": "2GiB"}`; None for one of them
    is no such limit.
    """
    tags: Mapping[str, str] | None
    priority: int
    """Default 0; higher ones start first."""
    stop_when_client_leaves: bool
    """Cancel the job when its last reader's connection ends. Default False."""
    idempotency_key: str | None
    """Default: a new one. The same key and the same job again return the job that there is."""
    within_s: float | None
    """How long its answer is of use, in seconds from now: what is left of the caller's own time (`ctx.remaining_s`). It
    lowers `total_s`, and a job that could not start in time is refused, `deadline_unmeetable`. Default: for ever.
    """
    correlation_id: str | None
    """1 to 128 characters that the job's records, events and log lines carry. Default: the server makes one."""
    wait_for_room_s: float
    """For how long a full queue is asked again. Default 0: `queue_full` is raised at once."""


def _in_numbers(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits with what is text as seconds, bytes and counts; whether there are such is the server's to say."""
    try:
        return {
            name: parse_limit(name, value) if name in LIMITS and isinstance(value, str | Mapping) else value
            for name, value in limits.items()
        }
    except ValueError as error:
        raise Refused(str(error)) from None


@dataclass(slots=True)
class PendingSubmission:
    """One submission from its making to its job: what is sent, and what is known of how far it came."""

    call: HttpCall
    has_own_key: bool
    """The caller can find the job again, and may want to."""
    wait_for_room_s: float
    job: JobCalls | None = field(default=None, init=False)
    """None before it was answered: there may be one."""

    def may_have_started(self, error: Unreachable) -> bool:
        """Tell whether there may be a job that nobody told of: no answer came, or one for a server that did not."""
        status: int = error.facts.get("status", 500)
        return self.job is None and was_sent(error) and status >= 500

    def unknown(self, error: KillableError) -> Unreachable:
        """Return the error for a submission that may have started a job, with the key by which that can be found."""
        key = self.call.headers["Idempotency-Key"]
        return Unreachable(
            f"{error.message}; whether a job was started is not known: submitted again with idempotency_key={key!r} "
            "it is the same one",
            **error.facts | {"idempotency_key": key},
        )

    @classmethod
    def of(
        cls, type: str, input: Mapping[str, Any] | None = None, *, limits: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None, priority: int = 0, stop_when_client_leaves: bool = False,
        idempotency_key: str | None = None, correlation_id: str | None = None, wait_for_room_s: float = 0.0,
        within_s: float | None = None, **unknown: object,
    ) -> PendingSubmission:  # fmt: skip
        """Make one. Raise Refused for what JSON cannot say, and for text that is no time or size; TypeError."""
        if unknown:
            meant = did_you_mean(min(unknown), JobOptions.__annotations__)
            raise TypeError(f"there is no option {min(unknown)!r} ({meant}); the job's input is one mapping")
        if not isinstance(input, Mapping | None):
            kind = builtins.type(input).__name__
            raise Refused(f"the input has to be a mapping of the job's parameters by name, not {kind}")
        body = {
            "type": type,
            "input": dict(input or {}),
            "limits": _in_numbers(dict(limits or {})),
            "tags": dict(tags or {}),
            "priority": priority,
            "stop_when_client_leaves": stop_when_client_leaves,
        }
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if correlation_id is not None:
            headers["X-Correlation-Id"] = correlation_id
        ends = None if within_s is None else time.monotonic() + within_s
        call = HttpCall("POST", "/v1/jobs", headers=headers, body=json_of(body), again="keyed", until=ends)
        return cls(call, idempotency_key is not None, wait_for_room_s)


@dataclass(frozen=True, slots=True)
class Submitting:
    """Submissions to one server, as flows."""

    asking: Asking

    def submit(self, submission: PendingSubmission) -> Flow[JobCalls]:
        """Start the job."""
        try:
            return (yield from self._start(submission, None))
        except Unreachable as error:
            if not submission.may_have_started(error):
                raise
            raise submission.unknown(error) from error

    def _start(self, submission: PendingSubmission, until: float | None) -> Flow[JobCalls]:
        """`until` is the monotonic time at which waiting for the answer is given up."""
        call = submission.call
        if until is not None:
            call = replace(call, answer_s=min(self.asking.server.answer_s, until - time.monotonic()))
        give_up = min(each for each in (until, call.until, float("inf")) if each is not None)
        answer = yield from self.asking.ask(call, room_s=submission.wait_for_room_s, until=give_up)
        accepted = self.asking.server.members(answer)
        job_id = str(self.asking.server.member(answer, "job_id"))
        job = JobCalls(self.asking, job_id, accepted)
        job.is_replay = answer.headers.get("Idempotent-Replayed", "").lower() == "true"
        job.correlation_id = answer.headers.get("X-Correlation-Id")
        submission.job = job
        return job

    def run(self, submission: PendingSubmission, timeout_s: float | None) -> Flow[Any]:
        """Start the job and return its result. After `timeout_s`, submission included, cancel it: JobTimedOut."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            job = yield from self._start(submission, until)
            return (yield from job.result(None if until is None else max(0.0, until - time.monotonic())))
        except NotEnded:
            pass
        except Unreachable as error:  # at the timeout that is how it looks, too
            if until is None or time.monotonic() < until:
                yield from self.abandon(submission)
                if not submission.may_have_started(error):  # or it is found by now, and cancelled
                    raise
                raise submission.unknown(error) from error
        ending = yield from self.undo(submission, f"the client's timeout of {timeout_s:g} s")
        if ending is None or submission.job is None:
            raise JobTimedOut(
                f"not accepted within {timeout_s:g} s; nothing was started",
                job_id=None, certificate=None, partial=None, by="client", timeout_s=timeout_s,
            )  # fmt: skip
        if ending.had_ended:
            return (yield from submission.job.result(0))  # it won the race: its own result, or its own error
        fate = "is dead" if ending.is_over else f"not yet dead after {LEAVE_S:g} s; its end goes on"
        raise JobTimedOut(
            f"no result within {timeout_s:g} s; {ending.job_id} was cancelled and {fate}",
            job_id=ending.job_id, certificate=ending.certificate, partial=None, by="client", timeout_s=timeout_s,
        )  # fmt: skip

    def undo(self, submission: PendingSubmission, reason: str) -> Flow[Ending | None]:
        """Cancel what a submission started and wait for the certificate; None when it has started nothing.

        Bounded: LEAVE_S for the job to die, LEAVE_ANSWER_S for each answer beyond that.
        """
        if submission.job is None:
            try:
                answer = yield from self.asking.ask(replace(submission.call, answer_s=LEAVE_ANSWER_S))
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and error.code not in UNSEEN:
                    return None
                raise submission.unknown(error) from error
            submission.job = JobCalls(self.asking, str(self.asking.server.member(answer, "job_id")))
        return (yield from submission.job.cancel(reason=reason, wait_s=LEAVE_S, answer_s=LEAVE_ANSWER_S))

    def abandon(self, submission: PendingSubmission) -> Flow[None]:
        """Undo a submission whose caller was interrupted. Raise nothing: what interrupted it says more."""
        if submission.job is None or not submission.job.is_over:
            try:
                yield from self.undo(submission, "the client left")
            except KillableError:
                pass

    def abandon_unkeyed(self, submission: PendingSubmission) -> Flow[None]:
        """The same, but leave a job that the caller can find again by a key of its own."""
        if not submission.has_own_key:
            yield from self.abandon(submission)
