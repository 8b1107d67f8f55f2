"""Submissions: sent with an idempotency key, run with a timeout, and undone when their caller leaves.

Runs in: any machine (no supervisor, no Linux).

Every submission carries an idempotency key, so sending it again returns the same job. An interrupted submission can be
retried, and the job of a caller that left can be cancelled: a second sending returns the id if the first was lost, too.
"""

from __future__ import annotations

import builtins
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from killable.api.client.errors import NotEnded, Unreachable
from killable.api.client.events import Ending
from killable.api.client.file_calls import FileCalls
from killable.api.client.file_source import FileSource
from killable.api.client.http_call import HttpCall, json_of
from killable.api.client.input_encoding import PlainInput, Schema, schema_of
from killable.api.client.job_calls import JobCalls
from killable.api.client.retries import AFTER_KEY, Flow, Requester
from killable.api.client.server_answers import may_have_arrived
from killable.api.client.timeouts import LEAVE_ANSWER_S, LEAVE_S
from killable.workers.authoring.identifiers import did_you_mean
from killable.workers.authoring.limits_and_caps import LIMITS, parse_limit
from killable.workers.errors import JobTimedOut, KillableError, Refused
from killable.workers.protocol.trace_context import current_headers


class JobOptions(TypedDict, total=False):
    """Options of a job, which are keyword arguments of `submit` and `run`. Durations are in seconds."""

    limits: Mapping[str, Any] | None
    """Override the limits of the job type: `{"run_s": 60, "memory_bytes": 2 << 30}`, or with text:
    `{"run_s": "1m", "memory_bytes": "2GiB"}`. None as the value of a limit removes it.
    """
    tags: Mapping[str, str] | None
    """At most 32 labels, by which jobs can be listed and cancelled. Default: none."""
    nodes: Mapping[str, str] | None
    """Labels of the machines of a cluster that may run it, with Ray's conditions: `{"zone": "a"}`, `{"node": "!n1"}`,
    `{"disk": "in(ssd,nvme)"}`. Default: any machine.
    """
    callback_url: str | None
    """Where the server sends how the job ended, as a signed webhook. Default: what the server has for the API key."""
    priority: int
    """Default 0; higher ones start first."""
    stop_when_client_leaves: bool
    """Cancel the job when its last reader's connection ends. Default False."""
    idempotency_key: str | None
    """Default: a new one. The same submission with the same key returns the job that it started before."""
    within_s: float | None
    """How long the result is useful, from now: the rest of the caller's own time (`ctx.remaining_s`). Lowers `total_s`.
    A job that could not start in time is refused (`deadline_unmeetable`). Default: no limit.
    """
    correlation_id: str | None
    """1 to 128 characters that the job's records, events and log lines carry. Default: the server generates one."""
    wait_for_room_s: float
    """How long a full queue is retried. Default 0: `queue_full` is raised at once."""


def _in_numbers(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits with text converted to seconds, bytes and counts. The server checks the names."""
    try:
        return {
            name: parse_limit(name, value) if name in LIMITS and isinstance(value, str | Mapping) else value
            for name, value in limits.items()
        }
    except ValueError as error:
        raise Refused(str(error)) from None


@dataclass(slots=True)
class PendingSubmission:
    """One submission: its request, and its job when that is known."""

    call: HttpCall
    """Without a body while its bytes wait for the job's schema; nothing was sent by then."""
    has_own_key: bool
    """The caller passed the key, so it can find the job again and may want to."""
    wait_for_room_s: float
    job: JobCalls | None = field(default=None, init=False)
    """None before the answer; a job may exist nevertheless."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """The body, less the input."""
    waiting: PlainInput | None = None
    """An input with bytes or files in it, whose form the job's schema decides; None: there is none."""
    uploaded: list[str] = field(default_factory=list)
    """The ids of its files."""

    def may_have_started(self, error: Unreachable) -> bool:
        """Return whether a job may exist although its server did not answer: nothing came, or a gateway's 5xx."""
        status: int = error.facts.get("status", 500)
        return self.call.body is not None and self.job is None and may_have_arrived(error) and status >= 500

    def unknown(self, error: KillableError) -> Unreachable:
        """Return the error for a submission whose job may run on, with its id if that is known, and the key that finds
        it.
        """
        key = self.call.headers["Idempotency-Key"]
        if self.job is not None:
            told = f"{self.job.id} was started and could not be cancelled: it may run on"
            return Unreachable(
                f"{error.message}; {told}", **error.facts | {"job_id": self.job.id, "idempotency_key": key}
            )
        return Unreachable(
            f"{error.message}; it is not known whether a job was started: another submission with idempotency_key="
            f"{key!r} returns the same job",
            **error.facts | {"idempotency_key": key},
        )

    def encode(self, schema: Schema) -> None:
        """Write the body of an input that has waited for the schema. Raise Refused for bytes where it takes none."""
        assert self.waiting is not None
        spelled = self.waiting.to_json(schema, dict(enumerate(self.uploaded)))
        self.call = replace(self.call, body=json_of({**self.members, "input": spelled}))

    @classmethod
    def of(
        cls, type: str, input: Mapping[str, Any] | None = None, *, limits: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None, priority: int = 0, stop_when_client_leaves: bool = False,
        idempotency_key: str | None = None, correlation_id: str | None = None, wait_for_room_s: float = 0.0,
        within_s: float | None = None, nodes: Mapping[str, str] | None = None, callback_url: str | None = None,
        **unknown: object,
    ) -> PendingSubmission:  # fmt: skip
        """Create a submission. Raise Refused for values that JSON cannot express and text that is no time or size, and
        TypeError for an unknown option.
        """
        if unknown:
            meant = did_you_mean(min(unknown), JobOptions.__annotations__)
            raise TypeError(f"there is no option {min(unknown)!r} ({meant}); the job's input is one mapping")
        if not isinstance(input, Mapping | None):
            kind = builtins.type(input).__name__
            raise Refused(f"the input must be a mapping of the job's parameters by name, not {kind}")
        members = {
            "type": type,
            "limits": _in_numbers(dict(limits or {})),
            "tags": dict(tags or {}),
            "priority": priority,
            "stop_when_client_leaves": stop_when_client_leaves,
        }
        if nodes:  # older servers do not know it
            members["nodes"] = dict(nodes)
        if callback_url is not None:
            members["callback_url"] = callback_url
        headers = current_headers() | {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if correlation_id is not None:
            headers["X-Correlation-Id"] = correlation_id
        ends = None if within_s is None else time.monotonic() + within_s
        call = HttpCall("POST", "/v1/jobs", headers=headers, again="keyed", until=ends)
        submission = cls(call, idempotency_key is not None, wait_for_room_s, members=members)
        try:
            submission.call = replace(call, body=json_of({**members, "input": dict(input or {})}))
        except Refused:  # values that JSON does not have: an input of others is not copied
            given = PlainInput.of(input or {})
            if given.has_bytes:
                submission.waiting = given
            else:
                submission.call = replace(call, body=json_of({**members, "input": given.members}))
        return submission


@dataclass(frozen=True, slots=True)
class Submitting:
    """Flows that submit jobs to one server."""

    requester: Requester
    schemas: dict[str, Schema] = field(default_factory=dict, compare=False)
    """Of the types that were given bytes. One that is out of date is forgotten with the refusal that shows it."""

    def submit(self, submission: PendingSubmission) -> Flow[JobCalls]:
        """Start the job."""
        try:
            return (yield from self._start(submission, None))
        except Unreachable as error:
            if not submission.may_have_started(error):
                raise
            raise submission.unknown(error) from error

    def _start(self, submission: PendingSubmission, until: float | None) -> Flow[JobCalls]:
        """Start the job. `until`: monotonic time at which to give up waiting for the answer."""
        if submission.waiting is not None:
            schema = yield from self._schema_of(str(submission.members["type"]), until)
            yield from self._upload(submission, schema)
            submission.encode(schema)
        call = submission.call
        if until is not None:
            call = replace(call, answer_s=min(self.requester.server.answer_s, until - time.monotonic()))
        give_up = min(each for each in (until, call.until, float("inf")) if each is not None)
        try:
            answer = yield from self.requester.ask(call, room_s=submission.wait_for_room_s, until=give_up)
        except Refused:
            self.schemas.pop(str(submission.members["type"]), None)
            yield from self._discard(submission)
            raise
        accepted = self.requester.server.members(answer)
        job_id = str(self.requester.server.member(answer, "job_id"))
        job = JobCalls(self.requester, job_id, accepted)
        job.is_replay = answer.headers.get("Idempotent-Replayed", "").lower() == "true"
        job.correlation_id = answer.headers.get("X-Correlation-Id")
        submission.job = job
        return job

    def _upload(self, submission: PendingSubmission, schema: Schema) -> Flow[None]:
        """Upload the files of an input, once each. Raise OSError for one that cannot be read."""
        assert submission.waiting is not None
        sources = [FileSource(each) for each in submission.waiting.files(schema)]
        calls = FileCalls(self.requester)
        for source in sources[len(submission.uploaded) :]:
            try:
                submission.uploaded.append((yield from calls.upload(source))["file_id"])
            except KillableError:
                yield from self._discard(submission)
                raise

    def _discard(self, submission: PendingSubmission) -> Flow[None]:
        """Remove the files of a job that was refused; what cannot be removed expires."""
        while submission.uploaded:
            try:
                yield from FileCalls(self.requester).delete(submission.uploaded.pop())
            except KillableError:
                pass

    def _schema_of(self, type: str, until: float | None) -> Flow[Schema]:
        """Return the schema of a type's input; an empty one for an unknown type, which the server will refuse."""
        if type not in self.schemas:
            answer_s = None if until is None else min(self.requester.server.answer_s, until - time.monotonic())
            call = HttpCall("GET", "/v1/job-types", answer_s=answer_s)
            answer = yield from self.requester.ask(call, until=float("inf") if until is None else until)
            found = schema_of(self.requester.server.member(answer, "job_types"), type)
            if found is None:
                return {"additionalProperties": False}
            self.schemas[type] = found
        return self.schemas[type]

    def run(self, submission: PendingSubmission, timeout_s: float | None) -> Flow[Any]:
        """Start the job and return its result. Cancel it after `timeout_s`, submission included: raise JobTimedOut."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            job = yield from self._start(submission, until)
            return (yield from job.result(None if until is None else max(0.0, until - time.monotonic())))
        except NotEnded:
            pass
        except Unreachable as error:  # at the timeout, too: _start shortens `answer_s`
            if until is None or time.monotonic() < until:
                may_run = submission.job is not None or submission.may_have_started(error)
                if (yield from self.abandon(submission)) or not may_run:
                    raise
                raise submission.unknown(error) from error
        ending = yield from self.undo(submission, f"the client's timeout of {timeout_s:g} s")
        if ending is None or submission.job is None:
            raise JobTimedOut(
                f"not accepted within {timeout_s:g} s; nothing was started",
                job_id=None, certificate=None, partial=None, by="client", timeout_s=timeout_s,
            )  # fmt: skip
        if ending.had_ended:
            return (yield from submission.job.result(0))  # it ended before the cancel: its result or error
        fate = "is dead" if ending.is_over else f"not yet dead after {LEAVE_S:g} s; the server continues to stop it"
        raise JobTimedOut(
            f"no result within {timeout_s:g} s; {ending.job_id} was cancelled and {fate}",
            job_id=ending.job_id, certificate=ending.certificate, partial=None, by="client", timeout_s=timeout_s,
        )  # fmt: skip

    def undo(self, submission: PendingSubmission, reason: str) -> Flow[Ending | None]:
        """Cancel the job of a submission and wait for its certificate. Return None if no job was started.

        Wait at most LEAVE_S for the job's end, and LEAVE_ANSWER_S for each answer beyond that.
        """
        if submission.call.body is None:
            return None  # it was never sent
        if submission.job is None:
            try:
                again = replace(submission.call, answer_s=LEAVE_ANSWER_S)
                answer = yield from self.requester.ask(again, after_lost=True)
            except (Refused, Unreachable) as error:
                if error.code in AFTER_KEY:
                    return None
                raise submission.unknown(error) from error
            submission.job = JobCalls(self.requester, str(self.requester.server.member(answer, "job_id")))
        try:
            return (yield from submission.job.cancel(reason=reason, wait_s=LEAVE_S, answer_s=LEAVE_ANSWER_S))
        except Unreachable as error:
            raise submission.unknown(error) from error

    def abandon(self, submission: PendingSubmission) -> Flow[bool]:
        """Undo a submission whose caller was interrupted; return whether that worked. Raise no KillableError: the
        interrupt is raised instead.
        """
        if submission.job is None or not submission.job.is_over:
            try:
                yield from self.undo(submission, "the client left")
            except KillableError as error:
                return error.code == "unknown_job"  # of a server that knows nothing of it any more
        return True

    def abandon_unkeyed(self, submission: PendingSubmission) -> Flow[None]:
        """Undo a submission like `abandon`, except if the caller can find the job again by its own key."""
        if not submission.has_own_key:
            yield from self.abandon(submission)
