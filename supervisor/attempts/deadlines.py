"""How much time an attempt has left for what: its start, its first token, the next one, its operations, the whole run.

Runs in: supervisor. Pure: what takes time takes `now`. Says when to look again and what is due then; ending the attempt
is for others.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from killable.supervisor.attempts.escalation import RESEND_UNHEARD_S, resend_next
from killable.supervisor.models import Verdict
from killable.workers.authoring.limits import Limits, value_of
from killable.workers.protocol.messages import OPERATIONS_MAX, OperationEntered

NEVER = float("inf")

_CODES = {
    "start_s": "timeout.start",
    "run_s": "timeout.run",
    "first_token_s": "timeout.first_token",
    "idle_s": "timeout.idle",
}


class Notice(Enum):
    """How far an operation with `on_timeout="raise"` has been told that its time is over."""

    NONE = "none"
    GIVEN = "given"
    """The bell rings; it has `ack_s` to be heard."""
    HEARD = "heard"
    """`OperationTimedOut` is raised; the job has `grace_s` to leave the operation."""


@dataclass(frozen=True, slots=True)
class OperationDeadline:
    """One that is entered."""

    entered: OperationEntered
    due: float
    """When something of it is due; the rest counts once the notice is given."""
    notice: Notice = Notice.NONE
    delivered_at: float | None = None
    """When the bell has reached Python's handler; before, to ring again would help nobody."""
    unheard_at: float = 0.0
    """When the job has not heard of it, and is ended."""


@dataclass(frozen=True, slots=True)
class OperationExpiry:
    """The job is to be told that this operation's time is over."""

    number: int
    again: bool = False
    """It was, and has not heard: only the bell is to ring once more."""


Due = Verdict | OperationExpiry


class Deadlines:
    """Those of one attempt."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entered = False
        self._due: dict[str, float] = {}
        self._operations: dict[int, OperationDeadline] = {}
        self._raised: OperationDeadline | None = None
        self._unanswered: deque[OperationDeadline] = deque()
        """Whose notices were given, in their order, and not heard yet; some of them may have been left meanwhile."""

    def assigned(self, now: float, accepted: float) -> None:
        """The order goes out: `start_s` runs; `total_s` has run since the job was accepted."""
        self._set("start_s", now)
        self._set("total_s", accepted)

    def entered(self, now: float) -> None:
        """The job function is entered: `run_s` and `first_token_s` run."""
        self._due.pop("start_s", None)
        self._entered = True
        self._set("run_s", now)
        self._set("first_token_s", now)

    def tokens(self, now: float) -> bool:
        """A token came: `idle_s` runs until the next. Return whether `wake_at` may be earlier than it was."""
        first = "idle_s" not in self._due
        self._due.pop("first_token_s", None)
        self._set("idle_s", now)
        return first and "idle_s" in self._due

    def clear(self) -> None:
        """The job function is over, or something ends it already."""
        self._due.clear()
        if self._operations:
            self._operations = {number: replace(each, due=NEVER) for number, each in self._operations.items()}

    @property
    def wake_at(self) -> float:
        """When `due` is to be asked next; never too late, but perhaps too early."""
        if not self._due and not self._operations:
            return NEVER
        return min((*self._due.values(), *(each.due for each in self._operations.values())), default=NEVER)

    def due(self, now: float) -> Due | None:
        """Return the first thing whose time is over; a notice is given once."""
        moment, limit = min(((moment, limit) for limit, moment in self._due.items()), default=(NEVER, ""))
        first = min(self._operations.values(), key=lambda each: each.due, default=None)
        if first is not None and first.due < moment and first.due <= now:
            return self._operation_due(first, now)
        return self._verdict(limit) if moment <= now else None

    # ── operations ──

    def operation_entered(self, entered: OperationEntered, now: float) -> None:
        """Raise ValueError for what no worker of ours says."""
        if len(self._operations) >= OPERATIONS_MAX or entered.number in self._operations:
            raise ValueError(f"operation {entered.number} beside {len(self._operations)}")
        due = NEVER if entered.timeout_s is None else now + entered.timeout_s
        self._operations[entered.number] = OperationDeadline(entered, due)

    def operation_left(self, number: int) -> None:
        """It is left, and with it what was entered inside it: an exception on its way out may cut their words off."""
        left = self._operations.pop(number, None)
        if left is not None:
            for inside in [each.entered.number for each in self._operations.values() if each.entered.around == number]:
                self.operation_left(inside)

    def delivered(self, now: float) -> None:
        """A signal has reached Python's handler: what is not heard soon is rung for again."""
        for number, each in self._operations.items():
            if each.notice is Notice.GIVEN and each.delivered_at is None and each.due != NEVER:
                due = min(now + RESEND_UNHEARD_S, each.unheard_at)
                self._operations[number] = replace(each, delivered_at=now, due=due)

    def heard(self, now: float, notices: int = 1) -> None:
        """So many notices were answered in one breath: the first that were given. Of them the outermost is raised."""
        answered = [self._unanswered.popleft() for _ in range(min(notices, len(self._unanswered)))]
        self._raised = min(answered, key=lambda each: each.entered.number, default=self._raised)
        for number in (each.entered.number for each in answered):
            each = self._operations.get(number)
            if each is not None and each.notice is Notice.GIVEN:
                due = (
                    NEVER if each.due == NEVER else now + self._limits["grace_s"]
                )  # cleared: something ends it already
                self._operations[number] = replace(each, notice=Notice.HEARD, due=due)

    @property
    def noticed(self) -> bool:
        """Whether a notice was given that nobody has answered by leaving the operation."""
        return any(each.notice is not Notice.NONE for each in self._operations.values())

    @property
    def raised(self) -> Verdict | None:
        """What it comes to when `OperationTimedOut` was raised last and ended the job."""
        return None if self._raised is None else self._operation_verdict(self._raised, "")

    @property
    def rung(self) -> Verdict | None:
        """What it comes to when the bell of a notice, unheard, ended the process."""
        return self._operation_verdict(self._unanswered[0], "") if self._unanswered else None

    @property
    def operation(self) -> str:
        """The path of the operation that was entered last and not left; empty outside of all."""
        return next((each.entered.path for each in reversed(self._operations.values())), "")

    # ── inside ──

    def _set(self, limit: str, now: float) -> None:
        seconds = value_of(self._limits, limit)
        if seconds is not None:
            self._due[limit] = now + seconds

    def _verdict(self, limit: str) -> Verdict:
        seconds = value_of(self._limits, limit)
        facts: dict[str, Any] = {"limit": limit, "limit_s": seconds}
        if self.operation:
            facts["operation"] = self.operation
        code = _CODES.get(limit) or _CODES["run_s" if self._entered else "start_s"]  # total_s ends it wherever it is
        return Verdict(code, by="supervisor", facts={**facts, "message": f"{limit} of {seconds:g} s is over"})

    def _operation_due(self, operation: OperationDeadline, now: float) -> Due:
        number = operation.entered.number
        if not operation.entered.raises:
            return self._operation_verdict(operation, "")
        match operation.notice:
            case Notice.NONE:
                patience_s = self._limits["grace_s"] if self._limits["ack_s"] is None else self._limits["ack_s"]
                ends = now + patience_s
                self._operations[number] = replace(operation, notice=Notice.GIVEN, unheard_at=ends, due=ends)
                self._unanswered.append(operation)
                return OperationExpiry(number)
            case Notice.GIVEN if now < operation.unheard_at and operation.delivered_at is not None:
                due = min(resend_next(operation.delivered_at, now), operation.unheard_at)
                self._operations[number] = replace(operation, due=due)
                return OperationExpiry(number, again=True)
            case Notice.GIVEN:
                return self._operation_verdict(operation, ", and the job did not hear of it within ack_s")
            case Notice.HEARD:
                return self._operation_verdict(operation, ", and the job was told and did not leave it within grace_s")

    def _operation_verdict(self, operation: OperationDeadline, more: str) -> Verdict:
        path, seconds = operation.entered.path, operation.entered.timeout_s
        facts: dict[str, Any] = {"limit": "operation_s", "limit_s": seconds, "operation": path}
        if self.operation not in ("", path):
            facts["inside"] = self.operation
        message = f"operation {path} took longer than {seconds:g} s{more}"
        return Verdict("timeout.operation", by="supervisor", facts={**facts, "message": message})
