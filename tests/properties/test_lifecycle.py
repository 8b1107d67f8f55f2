"""The state machine, driven by all that can happen to a job, in every order in which it can."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from killable.supervisor.jobs.lifecycle import DECIDED, TERMINAL, Cause, IllegalTransition, State, public, step

NOT_COMPLETED = st.sampled_from(["failed", "cancelled", "timed_out"])


class JobLife(RuleBasedStateMachine):
    """What the service and its attempts emit, and when: any other pair of state and cause raises."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.QUEUED
        self.history = [self.state]
        self.seen: list[str] = ["queued"]
        self.entered = self.closed = self.stop_asked = self.killed = self.exited = False
        self.decisions = 0

    def emit(self, cause: Cause) -> None:
        self.state = step(self.state, cause)
        self.history.append(self.state)
        now = public(self.state, stop_asked=self.stop_asked)
        if now != self.seen[-1]:
            self.seen.append(now)

    @property
    def has_worker(self) -> bool:
        return self.state not in TERMINAL and self.state is not State.QUEUED

    @precondition(lambda self: self.state is State.QUEUED)
    @rule()
    def a_worker_takes_it(self) -> None:
        self.emit(Cause.ASSIGNED)

    @precondition(lambda self: self.state is State.QUEUED)
    @rule(how=NOT_COMPLETED)
    def it_ends_in_the_queue(self, how: str) -> None:
        self.decide(how)

    @precondition(lambda self: self.has_worker and not self.entered and not self.closed)
    @rule()
    def the_job_is_entered(self) -> None:
        self.entered = True
        self.emit(Cause.ENTERED)

    @precondition(lambda self: self.has_worker and not self.closed)
    @rule()
    def the_closing_frame_comes(self) -> None:
        self.closed = True
        self.emit(Cause.CLOSED)

    @precondition(lambda self: self.has_worker and not self.stop_asked and not self.closed and not self.exited)
    @rule()
    def a_stop_begins(self) -> None:
        self.stop_asked = True
        self.emit(Cause.STOP_REQUESTED)

    @precondition(lambda self: self.has_worker and not self.killed and not self.exited)
    @rule()
    def sigkill_is_due(self) -> None:
        """At the end of a grace, without one, after nonsense, or because it does not leave after its closing frame."""
        self.killed = True
        self.stop_asked = self.stop_asked or not self.closed
        self.emit(Cause.KILL_DUE)

    @precondition(lambda self: self.has_worker and not self.exited)
    @rule()
    def the_process_exits(self) -> None:
        self.exited = True
        self.emit(Cause.EXITED)

    @precondition(lambda self: self.has_worker and self.exited)
    @rule(how=NOT_COMPLETED)
    def the_tree_is_empty(self, how: str) -> None:
        self.decide("completed" if self.closed and not self.stop_asked else how)

    @precondition(lambda self: self.state is State.SWEEPING and self.closed and not self.stop_asked and not self.exited)
    @rule(raised=st.booleans())
    def the_worker_is_free_again(self, raised: bool) -> None:
        self.decide("failed" if raised else "completed")

    @precondition(lambda self: self.has_worker and self.killed)
    @rule()
    def it_is_given_up(self) -> None:
        self.decide("failed")

    @precondition(lambda self: self.state in TERMINAL)
    @rule(cause=st.sampled_from(Cause))
    def it_is_over(self, cause: Cause) -> None:
        with pytest.raises(IllegalTransition):
            step(self.state, cause)

    def decide(self, how: str) -> None:
        self.decisions += 1
        self.emit(DECIDED[how])
        assert self.state.value == how

    @invariant()
    def it_ends_once_and_for_all(self) -> None:
        assert self.decisions == (self.state in TERMINAL)
        assert not TERMINAL & set(self.history[:-1])

    @invariant()
    def the_outside_never_sees_it_go_back(self) -> None:
        order = ["queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out"]
        ranks = [min(order.index(state), 3) for state in self.seen]
        assert ranks == sorted(set(ranks))

    @invariant()
    def once_a_stop_began_it_is_seen_until_the_end(self) -> None:
        if self.stop_asked and self.state not in TERMINAL:
            assert self.seen[-1] == "stopping"

    @invariant()
    def only_an_entered_job_runs(self) -> None:
        assert self.state is not State.RUNNING or self.entered


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(max_examples=200, stateful_step_count=15, deadline=None)
