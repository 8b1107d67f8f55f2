"""The state machine: a table, total over state and cause."""

from __future__ import annotations

import itertools

import pytest

from killable.supervisor.jobs.lifecycle import (
    DECIDED,
    PUBLIC,
    TABLE,
    TERMINAL,
    Cause,
    IllegalTransition,
    State,
    public,
    step,
    terminal_state_of,
)
from killable.supervisor.models import ACTIVE_STATES, TERMINAL_STATES
from killable.workers.error_codes import CODES

LIVE = [state for state in State if state not in TERMINAL]


@pytest.mark.parametrize("state", State, ids=str)
def test_each_cause_leads_somewhere_or_is_a_bug_that_raises(state: State) -> None:
    for cause in Cause:
        following = TABLE[state].get(cause)
        if following is None:
            with pytest.raises(IllegalTransition, match=f"'{cause.value}' cannot come in state '{state.value}'"):
                step(state, cause)
        else:
            assert step(state, cause) is following


@pytest.mark.row("B5")
@pytest.mark.parametrize("state", [state for state in State if state in TERMINAL], ids=str)
def test_a_terminal_state_never_changes(state: State) -> None:
    assert TABLE[state] == {}


def test_every_state_has_a_row_and_every_cause_a_use() -> None:
    assert set(TABLE) == set(State) == set(PUBLIC)
    assert {cause for row in TABLE.values() for cause in row} == set(Cause)


def test_every_state_can_be_reached_and_every_live_one_can_end() -> None:
    reached = {State.QUEUED}
    while more := {following for state in reached for following in TABLE[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    for state in LIVE:
        ends = {state}
        while more := {following for each in ends for following in TABLE[each].values()} - ends:
            ends |= more
        assert ends >= TERMINAL - {State.COMPLETED}


@pytest.mark.row("B1")
def test_only_a_decision_ends_a_job_and_only_as_decided() -> None:
    for state, row in TABLE.items():
        for cause, following in row.items():
            if following in TERMINAL:
                assert DECIDED[following.value] is cause, (state, cause)
            else:
                assert cause not in DECIDED.values()
    assert set(DECIDED) == set(TERMINAL_STATES)


def test_a_job_completes_only_after_its_tree_was_swept() -> None:
    sources = {state for state, row in TABLE.items() if State.COMPLETED in row.values()}
    assert sources == {State.SWEEPING}


def test_a_stop_never_leads_back_to_a_run() -> None:
    """But a requeue, which ends the attempt."""
    for state in (State.TERMINATING, State.KILLING, State.SWEEPING):
        assert not {State.STARTING, State.RUNNING} & set(TABLE[state].values())
    assert State.TERMINATING not in TABLE[State.KILLING].values()


@pytest.mark.parametrize("cause", [Cause.STOP_REQUESTED, Cause.KILL_DUE, Cause.EXITED], ids=str)
def test_a_worker_can_be_stopped_or_die_in_every_state_that_has_one(cause: Cause) -> None:
    without = {state for state in LIVE if cause not in TABLE[state]}
    allowed = {State.QUEUED}
    if cause is not Cause.EXITED:
        allowed.add(State.KILLING)  # it is killed already
    assert without <= allowed


@pytest.mark.row("B1")
@pytest.mark.parametrize(
    ("state", "stop_asked", "expected"),
    [
        (State.QUEUED, False, "queued"),
        (State.QUEUED, True, "queued"),
        (State.STARTING, False, "running"),
        (State.RUNNING, False, "running"),
        (State.STARTING, True, "stopping"),
        (State.RUNNING, True, "stopping"),
        (State.TERMINATING, True, "stopping"),
        (State.KILLING, True, "stopping"),
        (State.SWEEPING, False, "running"),
        (State.SWEEPING, True, "stopping"),
        (State.COMPLETED, False, "completed"),
        (State.FAILED, True, "failed"),
        (State.CANCELLED, True, "cancelled"),
        (State.TIMED_OUT, True, "timed_out"),
    ],
)
def test_the_outside_sees_seven_states(state: State, stop_asked: bool, expected: str) -> None:
    assert public(state, stop_asked=stop_asked) == expected


def test_every_state_is_translated() -> None:
    for state, stop_asked in itertools.product(State, (False, True)):
        seen = public(state, stop_asked=stop_asked)
        assert seen in (TERMINAL_STATES if state in TERMINAL else ACTIVE_STATES)


def test_each_code_of_a_job_belongs_to_one_terminal_state() -> None:
    assert terminal_state_of(None) == "completed"
    for code, row in CODES.items():
        if row.state is None:
            with pytest.raises(AssertionError):
                terminal_state_of(code)
        else:
            assert terminal_state_of(code) == row.state
            expected = "cancelled" if code == "cancelled" else "timed_out" if code.startswith("timeout.") else "failed"
            assert row.state == expected
