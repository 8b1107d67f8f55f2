"""The calls about one job, as flows: result, cancel, record, output.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from killable.api.client.errors import NotEnded, job_error
from killable.api.client.events import Ending, Record
from killable.api.client.http_call import HttpCall, job_path
from killable.api.client.retries import Flow, Requester
from killable.api.client.timeouts import LEAVE_ANSWER_S, LEAVE_S, hold_s_until
from killable.workers.errors import KillableError, Refused


@dataclass(slots=True)
class JobCalls:
    """The calls about one job. `is_over` is set when the client has seen the job's end."""

    requester: Requester
    id: str
    accepted: Record | None = None
    is_replay: bool = field(default=False, init=False)
    correlation_id: str | None = field(default=None, init=False)
    is_over: bool = field(default=False, init=False)
    first_id: int | None = field(default=None, init=False)
    """Id of the first event of the latest attempt that an iteration has heard of."""

    def result(self, wait_s: float | None) -> Flow[Any]:
        """Return what the job returned. Raise NotEnded after `wait_s`, or the error of a job that did not complete."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while True:
            hold_s = hold_s_until(deadline)
            call = HttpCall("GET", f"{job_path(self.id)}/result", query={"wait_s": hold_s}, hold_s=hold_s)
            try:
                answer = yield from self.requester.ask(call)
            except Refused as refusal:
                if refusal.code != "no_result":
                    raise
                self.is_over = True
                raise job_error(refusal.facts.get("job") or {"job_id": self.id, "state": "worker_lost"}) from None
            if answer.status_code == httpx.codes.OK:
                self.is_over = True
                is_bytes = answer.headers.get("content-type", "").startswith("application/octet-stream")
                return answer.content if is_bytes else self.requester.server.value(answer)
            record = self.requester.server.members(answer)
            if deadline is not None and time.monotonic() >= deadline:
                raise NotEnded(
                    f"{self.id} has not ended; it is {record.get('state')} and continues: wait again, or cancel it",
                    record=record, job_id=self.id,
                )  # fmt: skip

    def cancel(
        self, grace_s: float | None = None, reason: str = "", wait_s: float | None = None,
        answer_s: float | None = None,
    ) -> Flow[Ending]:  # fmt: skip
        """Cancel the job. Return how it ended, or its state `stopping` if `wait_s` is over."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while True:
            hold_s = hold_s_until(deadline)
            call = HttpCall(
                "DELETE", job_path(self.id), query={"grace_s": grace_s, "reason": reason},
                headers={"Prefer": f"wait={math.ceil(hold_s)}"}, hold_s=hold_s, answer_s=answer_s,
            )  # fmt: skip
            try:
                answer = yield from self.requester.ask(call)
            except Refused as refusal:
                if refusal.code != "already_ended":
                    raise
                self.is_over = True
                record = refusal.facts.get("job") or {}
                state, certificate = record.get("state", "completed"), record.get("certificate")
                return Ending(self.id, state, certificate, record.get("error"), had_ended=True)
            members = self.requester.server.members(answer)
            status = members.get("status")
            if status not in ("cancelled", "stopping"):
                raise self.requester.server.unexpected_answer(answer)  # the answer does not show whether the job ended
            ending = Ending(self.id, status, members.get("certificate"))
            self.is_over = ending.is_over
            if ending.is_over or (deadline is not None and time.monotonic() >= deadline):
                return ending

    def leave(self, error: BaseException | None) -> Flow[None]:
        """Cancel the job because its caller leaves, unless its end was seen, and wait at most LEAVE_S for its end.

        Raise NotEnded if it is not dead by then. If the caller leaves with an `error`, raise no KillableError.
        """
        if self.is_over:
            return
        try:
            ending = yield from self.cancel(reason="the client left", wait_s=LEAVE_S, answer_s=LEAVE_ANSWER_S)
            if not ending.is_over:
                raise NotEnded(
                    f"{self.id} is being stopped and is not dead after {LEAVE_S:g} s; the server continues to stop it",
                    record={"job_id": self.id, "state": ending.state, "certificate": ending.certificate},
                    job_id=self.id,
                )  # fmt: skip
        except KillableError:
            if error is None:
                raise

    def record(self) -> Flow[Record]:
        return self.requester.members(HttpCall("GET", job_path(self.id)))

    def output(self) -> Flow[bytes]:
        return (yield from self.requester.ask(HttpCall("GET", f"{job_path(self.id)}/output"))).content
