"""The time limits of an attempt: for its start, its first and next token, its operations and the whole run.

Runs in: supervisor. Pure: the current time is passed in as `now`. Reports when to look again and what is due then;
other modules end the attempt.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

from killable.supervisor.attempts.escalation import RESEND_UNACKNOWLEDGED_S, resend_next
from killable.supervisor.models import Verdict
from killable.workers.authoring.limits_and_caps import Limits, value_of
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.message_bounds import OPERATIONS_MAX
from killable.workers.protocol.messages import OperationEntered

NEVER = float("inf")

_CODES = {
    "start_s": "timeout.start",
    "run_s": "timeout.run",
    "first_token_s": "timeout.first_token",
    "idle_s": "timeout.idle",
}


class Notice(Enum):
    """How far the job has been notified that an operation with `on_timeout="raise"` is over its time."""

    NONE = "none"
    GIVEN = "given"
    """The signal was sent; the job has `ack_s` to acknowledge it."""
    ACKNOWLEDGED = "heard"
    """`OperationTimedOut` is raised; the job has `grace_s` to leave the operation."""


class OperationDeadline(NamedTuple):
    """The deadline of one entered operation."""

    entered: OperationEntered
    due: float
    """When its next step is due. The fields below count once the notice is given."""
    notice: Notice = Notice.NONE
    delivered_at: float | None = None
    """When the signal reached Python's handler; a resend before that has no effect."""
    acknowledge_by: float = 0.0
    """When the job is ended if it has not acknowledged the notice."""


class OperationExpiry(NamedTuple):
    """The job is to be notified that this operation's time is over."""

    number: int
    again: bool = False
    """It was notified and has not acknowledged: only the signal is sent again."""


Due = Verdict | OperationExpiry


class Deadlines:
    """Tracks the deadlines of one attempt."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entered = False
        self._due: dict[str, float] = {}
        self._operations: dict[int, OperationDeadline] = {}
        self._raised: OperationDeadline | None = None
        self._unanswered: deque[OperationDeadline] = deque()
        """Operations with a notice not acknowledged yet, oldest first; the job may have left some meanwhile."""

    def assigned(self, now: float, accepted: float) -> None:
        """Start `start_s` as the order is sent; `total_s` counts from when the job was accepted."""
        self._set("start_s", now)
        self._set("total_s", accepted)

    def entered(self, now: float) -> None:
        """Start `run_s` and `first_token_s`: the job function is entered."""
        self._due.pop("start_s", None)
        self._entered = True
        self._set("run_s", now)
        self._set("first_token_s", now)

    def tokens(self, now: float) -> bool:
        """Restart `idle_s` after a token. Return whether `wake_at` may be earlier than it was."""
        first = "idle_s" not in self._due
        self._due.pop("first_token_s", None)
        self._set("idle_s", now)
        return first and "idle_s" in self._due

    def clear(self) -> None:
        """Drop all deadlines: the job function is over, or the attempt is being ended."""
        self._due.clear()
        if self._operations:
            self._operations = {number: each._replace(due=NEVER) for number, each in self._operations.items()}

    @property
    def wake_at(self) -> float:
        """When to call `due` next; never too late, but possibly too early."""
        if not self._due and not self._operations:
            return NEVER
        return min((*self._due.values(), *(each.due for each in self._operations.values())), default=NEVER)

    def due(self, now: float) -> Due | None:
        """Return what the earliest passed deadline requires; None if none has passed. A notice is given once."""
        moment, limit = min(((moment, limit) for limit, moment in self._due.items()), default=(NEVER, ""))
        first = min(self._operations.values(), key=lambda each: each.due, default=None)
        if first is not None and first.due < moment and first.due <= now:
            return self._operation_due(first, now)
        return self._verdict(limit) if moment <= now else None

    # ── operations ──

    def operation_entered(self, entered: OperationEntered, now: float) -> None:
        """Start an operation's deadline. Raise ValueError for a message that no correct worker sends."""
        if len(self._operations) >= OPERATIONS_MAX or entered.number in self._operations:
            raise ValueError(f"operation {entered.number} beside {len(self._operations)}")
        due = NEVER if entered.timeout_s is None else now + entered.timeout_s
        self._operations[entered.number] = OperationDeadline(entered, due)

    def operation_left(self, number: int) -> None:
        """End an operation and those entered inside it: an exception may have kept them from reporting their end."""
        left = self._operations.pop(number, None)
        if left is not None:
            for inside in [each.entered.number for each in self._operations.values() if each.entered.around == number]:
                self.operation_left(inside)

    def delivered(self, now: float) -> None:
        """Note that a signal reached Python's handler: a notice that is not acknowledged soon is then resent."""
        for number, each in self._operations.items():
            if each.notice is Notice.GIVEN and each.delivered_at is None and each.due != NEVER:
                due = min(now + RESEND_UNACKNOWLEDGED_S, each.acknowledge_by)
                self._operations[number] = each._replace(delivered_at=now, due=due)

    def heard(self, now: float, notices: int = 1) -> None:
        """Note that the job acknowledged the oldest `notices` at once. The outermost of their operations is raised."""
        answered = [self._unanswered.popleft() for _ in range(min(notices, len(self._unanswered)))]
        self._raised = min(answered, key=lambda each: each.entered.number, default=self._raised)
        for number in (each.entered.number for each in answered):
            each = self._operations.get(number)
            if each is not None and each.notice is Notice.GIVEN:
                due = (
                    NEVER if each.due == NEVER else now + self._limits["grace_s"]
                )  # cleared: the attempt is being ended
                self._operations[number] = each._replace(notice=Notice.ACKNOWLEDGED, due=due)

    @property
    def noticed(self) -> bool:
        """Whether a notice was given for an operation that the job has not left."""
        return any(each.notice is not Notice.NONE for each in self._operations.values())

    @property
    def raised(self) -> Verdict | None:
        """The verdict if the last raised `OperationTimedOut` ended the job; None if none was raised."""
        return None if self._raised is None else self._operation_verdict(self._raised, "")

    @property
    def expired_by_signal(self) -> Verdict | None:
        """The verdict if the signal of an unacknowledged notice ended the process; None if there is no such notice."""
        return self._operation_verdict(self._unanswered[0], "") if self._unanswered else None

    @property
    def operation(self) -> str:
        """The path of the operation that was entered last and not left; empty outside of all operations."""
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
        code = _CODES.get(limit) or _CODES["run_s" if self._entered else "start_s"]  # total_s may end either phase
        return Verdict(code, by="supervisor", facts={**facts, "message": f"{limit} of {seconds:g} s is over"})

    def _operation_due(self, operation: OperationDeadline, now: float) -> Due:
        number = operation.entered.number
        if not operation.entered.raises:
            return self._operation_verdict(operation, "")
        match operation.notice:
            case Notice.NONE:
                patience_s = self._limits["grace_s"] if self._limits["ack_s"] is None else self._limits["ack_s"]
                ends = now + patience_s
                self._operations[number] = operation._replace(notice=Notice.GIVEN, acknowledge_by=ends, due=ends)
                self._unanswered.append(operation)
                return OperationExpiry(number)
            case Notice.GIVEN if now < operation.acknowledge_by and operation.delivered_at is not None:
                due = min(resend_next(operation.delivered_at, now), operation.acknowledge_by)
                self._operations[number] = operation._replace(due=due)
                return OperationExpiry(number, again=True)
            case Notice.GIVEN:
                return self._operation_verdict(operation, ", and the job did not acknowledge it within ack_s")
            case Notice.ACKNOWLEDGED:
                return self._operation_verdict(operation, ", and the job did not leave it within grace_s")

    def _operation_verdict(self, operation: OperationDeadline, more: str) -> Verdict:
        path, seconds = operation.entered.path, operation.entered.timeout_s
        facts: dict[str, Any] = {"limit": "operation_s", "limit_s": seconds, "operation": path}
        if self.operation not in ("", path):
            facts["inside"] = self.operation
        message = f"operation {path} took longer than {seconds:g} s{more}"
        return Verdict("timeout.operation", by="supervisor", facts={**facts, "message": message})
