"""What an attempt has left time for, and what is due when that is over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killable.supervisor.attempts.deadlines import NEVER, Deadlines, OperationExpiry
from killable.supervisor.models import Verdict
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.protocol.message_bounds import OPERATIONS_MAX
from killable.workers.protocol.messages import OperationEntered

NOW = 100.0
LIMITS = over(DEFAULT_LIMITS, {"start_s": 1, "run_s": 60, "first_token_s": 5, "idle_s": 2, "grace_s": 3, "ack_s": 0.5})


def deadlines(**changes: Any) -> Deadlines:
    found = Deadlines(over(LIMITS, changes))
    found.assigned(NOW, NOW)
    return found


def running(**changes: Any) -> Deadlines:
    found = deadlines(**changes)
    found.entered(NOW)
    return found


def verdict(found: Deadlines, now: float) -> Verdict:
    due = found.due(now)
    assert isinstance(due, Verdict), due
    return due


def test_one_after_the_other() -> None:
    found = deadlines()
    assert found.wake_at == NOW + 1 and found.due(NOW + 0.9) is None
    assert verdict(found, NOW + 1).code == "timeout.start"
    found.entered(NOW + 0.5)
    assert found.wake_at == NOW + 5.5
    assert verdict(found, NOW + 5.5).code == "timeout.first_token"
    assert found.tokens(NOW + 4)
    assert found.wake_at == NOW + 6
    assert not found.tokens(NOW + 5.5), "the timer that is set already comes early enough"
    assert found.due(NOW + 6) is None
    late = verdict(found, NOW + 7.5)
    assert (late.code, late.by) == ("timeout.idle", "supervisor")
    assert late.facts == {"limit": "idle_s", "limit_s": 2, "message": "idle_s of 2 s is over"}
    found.clear()
    assert found.wake_at == NEVER and found.due(NOW + 1e6) is None


def test_the_first_that_was_over_is_the_cause() -> None:
    found = running(run_s=1, first_token_s=2)
    assert verdict(found, NOW + 10).code == "timeout.run"
    found = running(run_s=2, first_token_s=1)
    assert verdict(found, NOW + 10).code == "timeout.first_token"


def test_without_limits_nothing_is_due() -> None:
    found = running(start_s=None, run_s=None, first_token_s=None, idle_s=None)
    assert not found.tokens(NOW)
    found.operation_entered(OperationEntered(1, "load"), NOW)
    assert found.wake_at == NEVER and found.due(NOW + 1e9) is None


# ── operations ──


def test_an_operation_is_named_by_its_path_and_ends_with_its_with() -> None:
    found = running()
    found.operation_entered(OperationEntered(1, "load", 4.0), NOW)
    found.operation_entered(OperationEntered(2, "load/download", 1.0), NOW)
    assert found.operation == "load/download" and found.wake_at == NOW + 1
    due = verdict(found, NOW + 1)
    assert due.code == "timeout.operation"
    assert due.facts == {
        "limit": "operation_s", "limit_s": 1.0, "operation": "load/download",
        "message": "operation load/download took longer than 1 s",
    }  # fmt: skip
    found.operation_left(2)
    assert found.operation == "load" and found.due(NOW + 1) is None
    assert verdict(found, NOW + 4).facts["operation"] == "load"
    found.operation_left(1)
    assert found.operation == "" and verdict(found, NOW + 5).facts.get("operation") is None


def test_an_inner_operation_never_outlives_an_outer_one() -> None:
    found = running()
    found.operation_entered(OperationEntered(1, "load", 1.0), NOW)
    found.operation_entered(OperationEntered(2, "load/download", 9.0), NOW)
    due = verdict(found, NOW + 1)
    assert (due.facts["operation"], due.facts["inside"]) == ("load", "load/download")


def test_what_stood_inside_an_operation_is_left_with_it() -> None:
    """An exception on its way out may cut the inner one's word off; what another thread is in stays."""
    found = running()
    for number, path, around in ((1, "a", 0), (2, "a/b", 1), (3, "a/b/c", 2), (4, "ab", 0), (5, "a", 0)):
        found.operation_entered(OperationEntered(number, path, float(number), around=around), NOW)
    found.operation_left(1)
    assert found.wake_at == NOW + 4 and found.operation == "a"
    found.operation_left(17)  # nobody's: harmless


def test_operations_of_one_name_side_by_side_have_insides_of_their_own() -> None:
    """Two threads, or two tasks, are each in `fetch` and in that in `body`."""
    found = running()
    for number, path, around in ((1, "fetch", 0), (2, "fetch", 0), (3, "fetch/body", 1), (4, "fetch/body", 2)):
        found.operation_entered(OperationEntered(number, path, float(number), around=around), NOW)
    found.operation_left(1)
    assert found.wake_at == NOW + 2
    found.operation_left(4)
    found.operation_left(2)
    assert found.operation == "" and found.wake_at == NOW + 5, "first_token_s is left"
    found.operation_entered(OperationEntered(5, "odd", 1.0, around=5), NOW)
    found.operation_left(5)
    assert found.operation == ""


def test_a_notice_is_given_once_and_has_to_be_heard_and_obeyed() -> None:
    found = running()
    found.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    assert not found.noticed and found.raised is None
    assert found.due(NOW + 1) == OperationExpiry(1)
    assert found.noticed and found.wake_at == NOW + 1.5 and found.due(NOW + 1.49) is None
    assert "did not acknowledge it within ack_s" in verdict(found, NOW + 1.5).facts["message"]
    found.heard(NOW + 1.2)
    assert found.wake_at == NOW + 4.2 and found.due(NOW + 4) is None
    assert "did not leave it within grace_s" in verdict(found, NOW + 4.2).facts["message"]
    found.operation_left(1)
    assert not found.noticed and found.due(NOW + 4.2) is None
    raised = found.raised
    assert raised is not None
    assert (raised.code, raised.facts["operation"], raised.facts["message"]) == (
        "timeout.operation", "load", "operation load took longer than 1 s",
    )  # fmt: skip


def test_an_answer_may_come_behind_the_word_that_the_operation_was_left() -> None:
    """Notifications and frames go by two pipes: the exception that was raised is the deadline's all the same."""
    for left in (1, 2):
        found = running()
        found.operation_entered(OperationEntered(1, "load", None), NOW)
        found.operation_entered(OperationEntered(2, "load/download", 1, raises=True, around=1), NOW)
        assert found.due(NOW + 1) == OperationExpiry(2)
        found.operation_left(left)
        assert found.raised is None
        found.heard(NOW + 1.1)
        assert found.raised is not None and found.raised.facts["operation"] == "load/download"


def test_an_answer_that_comes_when_the_job_is_being_ended_starts_no_deadline() -> None:
    found = running()
    found.operation_entered(OperationEntered(1, "load", 1, raises=True), NOW)
    assert found.due(NOW + 1) == OperationExpiry(1)
    found.clear()
    found.heard(NOW + 1.1)
    assert found.wake_at == NEVER and found.due(NOW + 1e6) is None


def test_without_ack_s_a_notice_has_the_grace_to_be_heard() -> None:
    found = running(ack_s=None)
    found.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    assert notifications(found, NOW + 4, delivered=0.0) == [1.0, 1.05, 1.1, 1.2, 1.4, 1.8, 2.6]
    assert found.wake_at == NOW + 4 and "did not acknowledge it" in verdict(found, NOW + 4).facts["message"]


@pytest.mark.parametrize(("ack_s", "rung"), [(0.5, [1.0, 1.05, 1.1, 1.2, 1.4]), (0.03, [1.0])])
def test_the_signal_of_a_notice_is_repeated_until_it_is_heard(ack_s: float, rung: list[float]) -> None:
    """Noted right before a call that waits, it would wake nobody. The order is given once."""
    found = running(ack_s=ack_s)
    found.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    assert notifications(found, NOW + 1 + ack_s, delivered=0.0) == rung
    assert found.wake_at == NOW + 1 + ack_s and isinstance(found.due(NOW + 1 + ack_s), Verdict)
    heard = running()
    heard.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    assert notifications(heard, NOW + 1.1, delivered=0.0) == [1.0, 1.05]
    heard.heard(NOW + 1.08)
    assert heard.wake_at == NOW + 4.08


def test_a_signal_that_has_not_been_delivered_is_not_repeated() -> None:
    """Whoever waits for SIGTERM by sigwait(3), or has a handler of C's, would hear it again and again."""
    found = running()
    found.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    found.delivered(NOW + 0.5)  # a signal from outside: of no notice
    assert found.wake_at == NOW + 1 and notifications(found, NOW + 1.5, delivered=0.2) == [1.0, 1.25, 1.3, 1.4]
    deaf = running()
    deaf.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    assert notifications(deaf, NOW + 1.5, delivered=None) == [1.0]
    deaf.clear()
    deaf.delivered(NOW + 1.1)
    assert deaf.wake_at == NEVER


def test_an_answer_is_that_to_the_notice_that_was_given_first() -> None:
    """And where several are taken in one breath, the outermost is raised."""
    found = running()
    found.operation_entered(OperationEntered(1, "load", 1.0, True), NOW)
    found.operation_entered(OperationEntered(2, "load/download", 0.9, True, 1), NOW)
    assert (found.due(NOW + 0.9), found.due(NOW + 1)) == (OperationExpiry(2), OperationExpiry(1))
    assert found.expired_by_signal is not None and found.expired_by_signal.facts["operation"] == "load/download"
    found.heard(NOW + 1.1)
    assert found.raised is not None and found.raised.facts["operation"] == "load/download"
    found.operation_left(2)
    assert found.expired_by_signal is not None and found.expired_by_signal.facts["operation"] == "load"
    assert "did not acknowledge it" in verdict(found, NOW + 1.5).facts["message"], "the other one was not heard"
    both = running()
    for number, path in ((1, "load"), (2, "load/download")):
        both.operation_entered(OperationEntered(number, path, 1.0, True, number - 1), NOW)
    assert (both.due(NOW + 1), both.due(NOW + 1)) == (OperationExpiry(1), OperationExpiry(2))
    both.heard(NOW + 1.1, notices=3)
    assert both.raised is not None and both.raised.facts["operation"] == "load" and both.expired_by_signal is None


def notifications(found: Deadlines, until: float, *, delivered: float | None) -> list[float]:
    """Return when SIGTERM is sent for operation 1, in seconds: first with the order, then alone. `delivered`: how long
    after the first one it is.
    """
    rung = []
    while found.wake_at < until:
        now = found.wake_at
        rung.append(round(now - NOW, 6))
        assert found.due(now) == OperationExpiry(1, again=len(rung) > 1)
        if delivered is not None:
            found.delivered(now + delivered)
    return rung


def test_a_deadline_says_in_which_operation_it_came() -> None:
    found = running(run_s=1)
    found.operation_entered(OperationEntered(1, "load"), NOW)
    assert verdict(found, NOW + 1).facts["operation"] == "load"
    found.clear()
    assert found.operation == "load", "the certificate tells it still"


def test_nonsense_is_refused() -> None:
    found = running()
    found.operation_entered(OperationEntered(1, "a"), NOW)
    with pytest.raises(ValueError, match="operation 1"):
        found.operation_entered(OperationEntered(1, "a"), NOW)
    for number in range(2, OPERATIONS_MAX + 1):
        found.operation_entered(OperationEntered(number, "a"), NOW)
    with pytest.raises(ValueError, match="beside 100"):
        found.operation_entered(OperationEntered(OPERATIONS_MAX + 1, "a"), NOW)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b'{"number":true,"path":"a"}', b'{"number":1,"path":2}', b'{"number":1,"path":"a","timeout_s":"1"}',
     b'{"number":1,"path":"a","timeout_s":-1}', b'{"number":1,"path":"a","raises":1}', b"[]", b"nonsense",
     b'{"number":1,"path":"a","timeout_s":1e999}', b'{"number":1,"path":"a","around":"a"}',
     b'{"number":1,"path":"a","timeout_s":1' + b"0" * 400 + b"}"],
)  # fmt: skip
def test_a_worker_cannot_say_what_is_no_operation(payload: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        OperationEntered.decode(payload)


@settings(deadline=None)  # also where the properties do not say so
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.integers(1, 9), st.floats(0.1, 9), st.booleans()),
            st.tuples(st.just("leave"), st.integers(1, 9), st.just(0.0), st.booleans()),
            st.tuples(st.just("token"), st.just(0), st.floats(0, 3), st.booleans()),
            st.tuples(st.just("heard"), st.integers(1, 3), st.floats(0, 1), st.booleans()),
            st.tuples(st.just("delivered"), st.just(0), st.just(0.0), st.booleans()),
            st.tuples(st.just("wait"), st.just(0), st.floats(0, 5), st.booleans()),
        ),
        max_size=30,
    )
)
def test_whoever_looks_at_wake_at_misses_nothing(steps: list[tuple[str, int, float, bool]]) -> None:
    """Nothing is due before `wake_at`, and at `wake_at` something is, or a later `wake_at` stands there."""
    found, now = running(), NOW
    for what, number, amount, raises in steps:
        match what:
            case "enter":
                try:
                    found.operation_entered(OperationEntered(number, f"o{number}", amount, raises), now)
                except ValueError:
                    pass
            case "leave":
                found.operation_left(number)
            case "token":
                now += min(amount, max(0.0, found.wake_at - now))
                found.tokens(now)
            case "heard":
                found.heard(now, number % 3)
            case "delivered":
                found.delivered(now)
            case "wait":
                for _ in range(20):
                    if found.wake_at > now + amount:
                        break
                    now = max(now, found.wake_at)
                    due = found.due(now)
                    if isinstance(due, Verdict):
                        found.clear()
                    assert found.wake_at > now or due is not None, "it is due and nothing came of it"
                now += min(amount, max(0.0, found.wake_at - now))
        if found.wake_at > now:
            assert found.due(now) is None
