"""Tables are total and agree with each other, and ARCHITECTURE.md draws the one that is in force."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from killable.api.cli.display.exit_codes import EXIT_CODES
from killable.api.http.statuses import STATUSES
from killable.supervisor.attempts import exit_outcome
from killable.supervisor.jobs.lifecycle import DECIDED, PUBLIC, TABLE, TERMINAL, Cause, IllegalTransition, State, step
from killable.supervisor.models import ACTIVE_STATES, TERMINAL_STATES, ExitStatus
from killable.workers.authoring.limits_and_caps import LIMITS, Unit
from killable.workers.error_classes import error_class
from killable.workers.error_codes import CODES
from killable.workers.errors import KillableError
from killable.workers.exit_codes import MEANINGS, ExitCode

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def diagram() -> list[str]:
    """Return the lines that ARCHITECTURE.md has to have."""
    edges = ((state, cause, target) for state, row in TABLE.items() for cause, target in row.items())
    lines = ["[*] --> QUEUED"]
    lines += [f"{state.name} --> {target.name} : {cause.value}" for state, cause, target in edges]
    return lines + [f"{state.name} --> [*]" for state, row in TABLE.items() if not row]


def drawn(text: str) -> list[str]:
    found = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    return [] if found is None else [line.strip() for line in found[1].splitlines()]


def test_the_diagram_is_the_table() -> None:
    text = ARCHITECTURE.read_text()
    assert drawn(text) == diagram(), "\n".join(diagram())
    assert drawn(text.replace("RUNNING --> ", "RUNNING -->  ", 1)) != diagram(), "the control"


def test_every_state_has_a_row_and_a_public_name() -> None:
    assert set(TABLE) == set(PUBLIC) == set(State)
    assert set(PUBLIC.values()) == {*ACTIVE_STATES, *TERMINAL_STATES}
    assert {DECIDED[name] for name in TERMINAL_STATES} <= set(Cause)


@pytest.mark.row("B5")
@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("cause", list(Cause))
def test_the_table_is_total(state: State, cause: Cause) -> None:
    if cause in TABLE[state]:
        assert step(state, cause) is TABLE[state][cause]
    else:
        with pytest.raises(IllegalTransition, match=re.escape(repr(cause.value))):
            step(state, cause)


def test_a_terminal_state_never_changes() -> None:
    assert all(TABLE[state] == {} for state in TERMINAL)


@pytest.mark.row("B3")
def test_every_code_has_a_class_and_every_ending_a_state() -> None:
    for code, row in CODES.items():
        error = error_class(code)("", code=code)
        assert isinstance(error, KillableError) and (error.code, error.retryable) == (code, row.retryable)
        assert row.state in (None, *TERMINAL_STATES)
        if row.state is not None:
            assert (row.state == "cancelled") == (code == "cancelled")
            assert (row.state == "timed_out") == code.startswith("timeout.")


def test_every_code_has_an_http_status_and_no_other_has() -> None:
    assert STATUSES.keys() == CODES.keys() and EXIT_CODES.keys() <= CODES.keys()


def test_every_exit_code_of_ours_has_a_meaning() -> None:
    assert set(MEANINGS) == {int(code) for code in ExitCode}


@pytest.mark.row("B4")
@pytest.mark.parametrize("entered", [True, False])
def test_every_status_has_an_outcome(entered: bool) -> None:
    statuses = [ExitStatus(exit_code=code) for code in range(256)] + [ExitStatus(signal=n) for n in range(1, 65)]
    for status in [*statuses, ExitStatus()]:
        outcome = exit_outcome.classify(None, None, status, exit_outcome.Evidence(entered=entered))
        assert outcome.code in CODES and outcome.state == CODES[outcome.code].state and outcome.message


SUFFIXES = {Unit.SECONDS: "_s", Unit.OPERATIONS: "_s", Unit.BYTES: "_bytes", Unit.COUNT: "_max"}


def test_the_name_of_a_limit_ends_in_its_unit() -> None:
    """The command and the texts read the unit of a value from its name, of limits and of other settings alike."""
    assert [name for name, limit in LIMITS.items() if not name.endswith(SUFFIXES[limit.unit])] == []
