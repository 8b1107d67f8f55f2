"""The states of a job, and the table of all transitions.

Runs in: supervisor. Pure. Only the dispatcher stores the next state. The table is total: a pair that is missing is a
bug and raises. A terminal state never changes.
"""

from __future__ import annotations

from enum import Enum

from killable.workers.error_codes import CODES


class State(Enum):
    QUEUED = "queued"
    STARTING = "starting"
    """Assigned to a worker; the job function is not entered yet."""
    RUNNING = "running"
    TERMINATING = "terminating"
    """SIGTERM was sent; the grace period runs."""
    KILLING = "killing"
    """SIGKILL was sent."""
    SWEEPING = "sweeping"
    """The outcome is decided or the process is gone; its tree is not proven empty yet."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    __hash__ = object.__hash__  # Enum's is written in Python, and the table is read four times per job


class Cause(Enum):
    ASSIGNED = "assigned"
    ENTERED = "entered"
    STOP_REQUESTED = "stop asked"
    """A cancel, a deadline or a limit: an escalation begins with SIGTERM."""
    KILL_DUE = "kill due"
    CLOSED = "closing frame"
    """The job function ended by itself; its process or tree has not ended yet."""
    EXITED = "exited"
    DECIDED_COMPLETED = "decided completed"
    DECIDED_FAILED = "decided failed"
    DECIDED_CANCELLED = "decided cancelled"
    DECIDED_TIMED_OUT = "decided timed out"
    REQUEUED = "requeued"
    """A retry: the attempt ends, the job goes on."""

    __hash__ = object.__hash__


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMED_OUT})

DECIDED = {
    "completed": Cause.DECIDED_COMPLETED,
    "failed": Cause.DECIDED_FAILED,
    "cancelled": Cause.DECIDED_CANCELLED,
    "timed_out": Cause.DECIDED_TIMED_OUT,
}

_ENDINGS = {
    Cause.DECIDED_FAILED: State.FAILED,
    Cause.DECIDED_CANCELLED: State.CANCELLED,
    Cause.DECIDED_TIMED_OUT: State.TIMED_OUT,
}
_ALL_ENDINGS = {Cause.DECIDED_COMPLETED: State.COMPLETED, **_ENDINGS}

TABLE: dict[State, dict[Cause, State]] = {
    State.QUEUED: {Cause.ASSIGNED: State.STARTING, **_ENDINGS},
    State.STARTING: {
        Cause.ENTERED: State.RUNNING,
        Cause.STOP_REQUESTED: State.TERMINATING,
        Cause.KILL_DUE: State.KILLING,
        Cause.CLOSED: State.SWEEPING,
        Cause.EXITED: State.SWEEPING,
        Cause.REQUEUED: State.QUEUED,
    },
    State.RUNNING: {
        Cause.STOP_REQUESTED: State.TERMINATING,
        Cause.KILL_DUE: State.KILLING,
        Cause.CLOSED: State.SWEEPING,
        Cause.EXITED: State.SWEEPING,
        Cause.REQUEUED: State.QUEUED,
    },
    State.TERMINATING: {
        # SIGTERM and the ENTERED frame may cross; the closing frame may come in the grace period.
        Cause.ENTERED: State.TERMINATING,
        Cause.CLOSED: State.TERMINATING,
        Cause.STOP_REQUESTED: State.TERMINATING,
        Cause.KILL_DUE: State.KILLING,
        Cause.EXITED: State.SWEEPING,
        Cause.REQUEUED: State.QUEUED,
    },
    State.KILLING: {
        Cause.ENTERED: State.KILLING,
        Cause.CLOSED: State.KILLING,
        Cause.EXITED: State.SWEEPING,
        Cause.REQUEUED: State.QUEUED,
        Cause.DECIDED_FAILED: State.FAILED,  # unkillable: the process never exits
        Cause.DECIDED_CANCELLED: State.CANCELLED,
        Cause.DECIDED_TIMED_OUT: State.TIMED_OUT,
    },
    State.SWEEPING: {
        Cause.ENTERED: State.SWEEPING,  # it was still in the pipe
        Cause.CLOSED: State.SWEEPING,
        Cause.STOP_REQUESTED: State.SWEEPING,  # the outcome is decided: only the process is ended
        Cause.KILL_DUE: State.SWEEPING,
        Cause.EXITED: State.SWEEPING,
        Cause.REQUEUED: State.QUEUED,
        **_ALL_ENDINGS,
    },
    State.COMPLETED: {},
    State.FAILED: {},
    State.CANCELLED: {},
    State.TIMED_OUT: {},
}

PUBLIC: dict[State, str] = {
    State.QUEUED: "queued",
    State.STARTING: "running",
    State.RUNNING: "running",
    State.TERMINATING: "stopping",
    State.KILLING: "stopping",
    State.SWEEPING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.TIMED_OUT: "timed_out",
}
"""STARTING, RUNNING and SWEEPING are `stopping` after a stop was asked: see `public`."""


class IllegalTransition(Exception):
    """A cause came in a state where it cannot come: a bug in killable, never in a job."""


def step(state: State, cause: Cause) -> State:
    """Return the next state. Raise IllegalTransition."""
    try:
        return TABLE[state][cause]
    except KeyError:
        raise IllegalTransition(f"{cause.value!r} cannot come in state {state.value!r}") from None


def public(state: State, *, stop_asked: bool) -> str:
    """Return the state that clients see. A node hears of a stop a moment after it was asked for."""
    return "stopping" if stop_asked and PUBLIC[state] == "running" else PUBLIC[state]


def terminal_state_of(code: str | None) -> str:
    """Return the terminal state that belongs to an error code; no code is `completed`."""
    if code is None:
        return "completed"
    state = CODES[code].state
    assert state is not None, code
    return state
