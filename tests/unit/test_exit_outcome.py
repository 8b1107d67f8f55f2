"""What an attempt's end is called: every exit code, every signal, every closing frame, every verdict."""

from __future__ import annotations

import itertools
import signal as signals

import pytest

from killable.supervisor.attempts.deadlines import Deadlines
from killable.supervisor.attempts.exit_outcome import SIGNAL_NAMES, Evidence, classify, signal_name
from killable.supervisor.jobs.lifecycle import terminal_state_of
from killable.supervisor.models import TERMINAL_STATES, ExitStatus, Verdict
from killable.supervisor.ports import Gone
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.error_codes import CODES
from killable.workers.exit_codes import MEANINGS, ExitCode
from killable.workers.protocol.messages import OperationEntered, Raised
from killable.workers.protocol.zygote_messages import ProcessEnding

EXIT_CODES = range(256)
SIGNALS = range(1, 65)
STATUSES = [
    ExitStatus(),
    *(ExitStatus(exit_code=code) for code in EXIT_CODES),
    *(ExitStatus(signal=number, core_dumped=core) for number in SIGNALS for core in (False, True)),
]
ENTERED, BEFORE = Evidence(entered=True), Evidence(entered=False)

BEFORE_ENTRY = {
    64: "protocol", 65: "protocol", 70: "protocol", 76: "protocol",
    74: "worker_lost",
}  # fmt: skip
"""Our own codes; every other one is `spawn`."""

BY_SIGNAL = {
    1: "killed_externally", 2: "killed_externally", 9: "killed_externally", 15: "killed_externally",
}  # fmt: skip
"""Every other signal is `crash`."""

CLOSING_FRAMES = {
    "exception": "exception",
    "memory": "limit.memory",
    "files": "limit.files",
    "exit": "exit",
    "stopped": "exit",
    "unserializable": "result.unserializable",
    "too_large": "result.unserializable",
    "payload": "input.invalid",
    "assignment": "spawn",
    "something of a newer worker": "protocol",
}


def code_of(*arguments: object) -> str | None:
    outcome = classify(*arguments)  # type: ignore[arg-type]
    assert outcome.state == terminal_state_of(outcome.code)
    assert outcome.code is None or outcome.message
    return outcome.code


@pytest.mark.row("B4")
def test_every_exit_code_before_the_job_is_one_of_ours() -> None:
    outcomes = {code: classify(None, None, ExitStatus(exit_code=code), BEFORE) for code in EXIT_CODES}
    expected = dict.fromkeys(EXIT_CODES, "spawn") | BEFORE_ENTRY
    assert {code: outcome.code for code, outcome in outcomes.items()} == expected
    for code, outcome in outcomes.items():
        assert outcome.facts["exit_code"] == code
        assert MEANINGS.get(code, "ended") in outcome.message


@pytest.mark.row("B4")
def test_an_exit_code_that_is_none_of_ours_is_one_of_the_code_that_unpickles_an_input() -> None:
    evidence = Evidence(unpickles=True)
    codes = {code: code_of(None, None, ExitStatus(exit_code=code), evidence) for code in EXIT_CODES}
    ours = {code: BEFORE_ENTRY.get(code, "spawn") for code in MEANINGS}
    assert codes == dict.fromkeys(EXIT_CODES, "exit") | ours


@pytest.mark.row("B4")
def test_every_exit_code_of_a_job_is_its_own() -> None:
    for code in EXIT_CODES:
        outcome = classify(None, None, ExitStatus(exit_code=code), ENTERED)
        assert (outcome.state, outcome.code, outcome.facts) == ("failed", "exit", {"exit_code": code})
        torn = classify(None, None, ExitStatus(exit_code=code), Evidence(entered=True, torn_bytes=7))
        assert torn.code == ("protocol" if code == 0 else "exit")


@pytest.mark.row("B4")
@pytest.mark.parametrize("entered", [False, True])
def test_every_signal(entered: bool) -> None:
    evidence = Evidence(entered=entered, torn_bytes=3)
    outcomes = {number: classify(None, None, ExitStatus(None, number, True), evidence) for number in SIGNALS}
    expected = dict.fromkeys(SIGNALS, "crash") | BY_SIGNAL
    assert {number: outcome.code for number, outcome in outcomes.items()} == expected
    for number, outcome in outcomes.items():
        assert outcome.facts["signal"] == signal_name(number)
        assert outcome.facts.get("core_dumped") is (True if outcome.code == "crash" else None)


def test_signals_have_the_names_of_this_system() -> None:
    assert {number: signals.Signals(number).name for number in range(1, 32)} == SIGNAL_NAMES
    assert [signal_name(number) for number in (9, 34, 64)] == ["SIGKILL", "SIG34", "SIG64"]


@pytest.mark.row("B4")
@pytest.mark.parametrize("oom", ["yes", "no", "unknown"])
def test_a_sigkill_that_is_not_ours_is_an_out_of_memory_only_with_a_proof(oom: str) -> None:
    outcome = classify(None, None, ExitStatus(signal=9), Evidence(entered=True, oom=oom))
    assert (outcome.code, outcome.facts) == ("killed_externally", {"signal": "SIGKILL", "oom": oom})
    assert ("out of memory" in outcome.message) == (oom == "yes") != ("not sent by killable" in outcome.message)
    for number in (1, 2, 15):
        others = classify(None, None, ExitStatus(signal=number), Evidence(entered=True, oom=oom))
        assert others.facts["oom"] == "no"


def test_the_kernels_sigkill_for_memory_max_is_the_limit_and_no_other_signal_is() -> None:
    struck = Evidence(entered=True, memory_max_struck=True)
    outcome = classify(None, None, ExitStatus(signal=9), struck)
    assert (outcome.code, outcome.facts) == ("limit.memory", {"signal": "SIGKILL"})
    for number in SIGNALS:
        if number != 9:
            assert code_of(None, None, ExitStatus(signal=number), struck) == BY_SIGNAL.get(number, "crash")


def test_a_sigkill_together_with_the_zygote_is_a_lost_worker_and_no_other_signal_is() -> None:
    lost = Evidence(entered=True, zygote_lost=True)
    assert code_of(None, None, ExitStatus(signal=9), lost) == "worker_lost"
    for number in SIGNALS:
        if number != 9:
            assert code_of(None, None, ExitStatus(signal=number), lost) == BY_SIGNAL.get(number, "crash")
    assert code_of(None, None, ExitStatus(exit_code=3), lost) == "exit"


def test_what_nobody_knows_is_called_so() -> None:
    for evidence in (ENTERED, BEFORE, Evidence(zygote_lost=True), Evidence(torn_bytes=9, entered=True)):
        outcome = classify(None, None, ExitStatus(), evidence)
        assert (outcome.code, outcome.facts) == ("worker_lost", {})
        assert ("guard or zygote" in outcome.message) is evidence.zygote_lost


@pytest.mark.parametrize("cause", CLOSING_FRAMES)
@pytest.mark.parametrize(
    "status", [ExitStatus(), ExitStatus(exit_code=0), ExitStatus(exit_code=70), ExitStatus(signal=9)]
)
@pytest.mark.parametrize("evidence", [ENTERED, BEFORE, Evidence(entered=True, torn_bytes=5, zygote_lost=True)])
def test_a_closing_frame_decides_before_the_exit_status(cause: str, status: ExitStatus, evidence: Evidence) -> None:
    raised = Raised(cause, "KeyError", "'x'", "Traceback …", exit_code=4)
    assert code_of(None, raised, status, evidence) == CLOSING_FRAMES[cause]
    assert code_of(None, b"1", status, evidence) is None


def test_the_facts_of_closing_frames() -> None:
    raised = classify(None, Raised("exception", "KeyError", "'x'", "Traceback …"), ExitStatus(exit_code=0), ENTERED)
    assert (raised.message, raised.facts) == ("KeyError: 'x'", {"type": "KeyError", "traceback": "Traceback …"})
    assert classify(None, Raised("exception", "KeyError"), ExitStatus(), ENTERED).message == "KeyError"
    left = classify(None, Raised("exit", exit_code=4), ExitStatus(exit_code=4), ENTERED)
    assert left.facts == {"exit_code": 4}
    assert classify(None, Raised("stopped"), ExitStatus(), ENTERED).facts == {"exit_code": ExitCode.TERMINATED}


def test_nonsense_is_a_protocol_error_whatever_the_exit_was() -> None:
    for status in STATUSES:
        evidence = Evidence(entered=True, protocol_error="a wrong checksum")
        outcome = classify(None, None, status, evidence)
        assert (outcome.code, outcome.message) == ("protocol", "a wrong checksum")
        assert classify(None, Raised("exception"), status, evidence).code == "protocol"


@pytest.mark.row("B4")
def test_the_signal_of_a_processor_limit_is_that_only_where_there_is_one() -> None:
    limited, free = Evidence(entered=True, cpu_used_up=True), Evidence(entered=True)
    assert code_of(None, None, ExitStatus(signal=24), limited) == "limit.cpu"
    assert code_of(None, None, ExitStatus(signal=24), free) == "crash"
    for number in set(range(1, 65)) - {24}:
        assert code_of(None, None, ExitStatus(signal=number), limited) != "limit.cpu"


def test_our_signal_for_an_operations_end_is_no_signal_from_outside() -> None:
    """The job has put SIGTERM's default action back: it ends the process before anyone has heard."""
    rung = Verdict("timeout.operation", by="supervisor", facts={"operation": "load", "message": "m"})
    evidence = Evidence(entered=True, operation_signalled=rung)
    outcome = classify(None, None, ExitStatus(signal=15), evidence)
    assert (outcome.state, outcome.code, outcome.message) == ("timed_out", "timeout.operation", "m")
    assert outcome.facts == {"signal": "SIGTERM", "by": "supervisor", "operation": "load"}
    for number in set(range(1, 65)) - {15}:
        assert code_of(None, None, ExitStatus(signal=number), evidence) != "timeout.operation"


@pytest.mark.row("B4")
@pytest.mark.parametrize("code", [code for code, row in CODES.items() if row.state is not None])
def test_a_verdict_stays_whatever_came_after_it(code: str) -> None:
    verdict = Verdict(code, by="supervisor", reason="r", facts={"message": "m", "limit": "x"})
    lasts = [None, b"1", *(Raised(cause) for cause in CLOSING_FRAMES)]
    evidences = [ENTERED, BEFORE, Evidence(True, 5, "nonsense", True, "spawn", 11, "yes")]
    for last, status, evidence in itertools.product(lasts, STATUSES, evidences):
        outcome = classify(verdict, last, status, evidence)
        assert (outcome.state, outcome.code, outcome.message) == (CODES[code].state, code, "m")
        assert outcome.facts["by"] == "supervisor" and outcome.facts["limit"] == "x"
        assert outcome.facts.get("exit_code") == status.exit_code
        assert outcome.facts.get("signal") == (None if status.signal is None else signal_name(status.signal))


def test_our_own_sigkill_after_a_timeout_reads_as_the_timeout() -> None:
    outcome = classify(Verdict("timeout.run", by="supervisor"), None, ExitStatus(signal=9), ENTERED)
    assert (outcome.state, outcome.code, outcome.facts["signal"]) == ("timed_out", "timeout.run", "SIGKILL")
    assert "oom" not in outcome.facts


def test_it_is_total() -> None:
    lasts = [None, b"", b"1", *(Raised(cause) for cause in CLOSING_FRAMES)]
    evidences = [
        Evidence(*flags)
        for flags in itertools.product(
            (False, True), (0, 9), ("", "nonsense"), (False, True), ("", "fork failed"), (None,), ("yes", "unknown")
        )
    ]
    for last, status, evidence in itertools.product(lasts, STATUSES, evidences):
        outcome = classify(None, last, status, evidence)
        assert outcome.state in TERMINAL_STATES
        assert (outcome.code is None) == (outcome.state == "completed") == isinstance(last, bytes)


def test_half_a_frame_and_exit_code_0_is_no_end_of_a_job() -> None:
    outcome = classify(None, None, ExitStatus(exit_code=0), Evidence(entered=True, torn_bytes=5))
    assert (outcome.code, outcome.facts) == ("protocol", {"exit_code": 0}) and "5 bytes" in outcome.message
    assert code_of(None, None, ExitStatus(exit_code=1), Evidence(entered=True, torn_bytes=5)) == "exit"


def test_a_verdicts_facts_are_all_kept_but_its_message_is_the_outcomes() -> None:
    facts = {"limit": "run_s", "message": "run_s is over", "operation": "load", "zone": 1}
    outcome = classify(Verdict("timeout.run", by="supervisor", facts=facts), None, ExitStatus(signal=9), Evidence())
    assert outcome.message == "run_s is over"
    told = {"limit": "run_s", "operation": "load", "zone": 1, "signal": "SIGKILL", "by": "supervisor", "reason": ""}
    assert outcome.facts == told


def test_nothing_is_known_of_a_worker_that_nobody_told_of() -> None:
    assert not Evidence().entered
    assert code_of(None, None, ExitStatus(exit_code=3), Evidence()) == "spawn"


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    ("user_s", "system_s", "cpu_s", "used_up"),
    [
        (3.0, 2.0, 5.0, True),
        (1.0, 0.5, 1.5, True),
        (3.0, 2.5, 5.0, True),
        (3.0, 1.5, 5.0, False),
        (0.0, 0.0, 0.5, False),
        (3.0, 2.0, None, False),
        (None, None, 0.5, False),
        (None, None, 0.0, True),
    ],
)
def test_the_processor_time_of_a_limit_is_that_of_both_kinds_and_used_up_when_it_is_reached(
    user_s: float | None, system_s: float, cpu_s: float | None, used_up: bool
) -> None:
    ending = None if user_s is None else ProcessEnding(None, 9, False, 0, user_s, system_s, 0.0)
    evidence = Evidence.of(
        Gone(ending, 0, ""),
        over(DEFAULT_LIMITS, {"cpu_s": cpu_s}),
        "",
        Deadlines(DEFAULT_LIMITS),
        entered=True,
        unpickles=False,
    )
    assert evidence == Evidence(entered=True, cpu_used_up=used_up)


def test_what_is_known_of_a_process_that_is_gone_is_evidence() -> None:
    gone = Gone(None, 0, "cgroup", True, 5, "yes", True)
    deadlines = Deadlines(DEFAULT_LIMITS)
    for number in (1, 2):
        deadlines.operation_entered(OperationEntered(number, f"o{number}", number / 10, raises=True), 0.0)
        deadlines.due(number / 10)
    deadlines.heard(0.2)
    assert deadlines.raised is not None and deadlines.expired_by_signal is not None
    assert (deadlines.raised.facts["operation"], deadlines.expired_by_signal.facts["operation"]) == ("o1", "o2")
    expected = Evidence(
        entered=False, torn_bytes=5, protocol_error="nonsense", zygote_lost=True, oom="yes",
        memory_max_struck=True, operation=deadlines.raised, operation_signalled=deadlines.expired_by_signal,
        unpickles=True,
    )  # fmt: skip
    assert Evidence.of(gone, DEFAULT_LIMITS, "nonsense", deadlines, entered=False, unpickles=True) == expected
