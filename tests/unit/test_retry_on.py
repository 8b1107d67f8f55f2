"""What `retry_on` and `Retry` take, and what is refused at the declaration."""

from __future__ import annotations

import pickle

import pytest

from killable import job
from killable.supervisor.dispatch import retries
from killable.supervisor.models import JobType, Outcome
from killable.workers.authoring import job_functions
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, Limits
from killable.workers.authoring.registered_types import DeclarationError
from killable.workers.authoring.retry import Retry
from killable.workers.authoring.retry_on import NEVER_AGAIN
from killable.workers.error_codes import CODES
from killable.workers.protocol.messages import Raised


@pytest.fixture(autouse=True)
def forget() -> None:
    job_functions.clear()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("crush", "did you mean crash?"),
        ("queue_full", "there is no ending 'queue_full'"),
        (KeyboardInterrupt, "KeyboardInterrupt ends a process"),
        (ConnectionError("x"), "retry_on is exception classes and codes of endings, not ConnectionError"),
        ([int], "not <class 'int'>"),
        (3, "not 3"),
        *((code, f"cannot have {code!r}: {why}") for code, why in NEVER_AGAIN.items()),
    ],
)
def test_what_can_never_be_retried_is_refused_at_the_declaration(wrong: object, words: str) -> None:
    with pytest.raises(DeclarationError) as caught:

        @job(retry_on=wrong)  # type: ignore[call-overload, untyped-decorator]
        def wants() -> None:
            pass

    assert "test_retry_on.py" in str(caught.value) and words in str(caught.value)


def test_what_is_declared_is_reported_and_has_a_default() -> None:
    @job(retry_on=(ConnectionError, "crash", ConnectionError))
    def often() -> None:
        pass

    @job(retry_on=OSError, attempts_max=7)
    def seven() -> None:
        pass

    first, second = job_functions.catalogue()
    assert (first["retry_on"], first["retry_codes"], first["limits"]) == (
        ["ConnectionError", "crash"], ["crash"], {"attempts_max": 3},
    )  # fmt: skip
    assert (second["retry_on"], second["retry_codes"], second["limits"]) == (["OSError"], [], {"attempts_max": 7})


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "soon", 86401, "2d", True])
def test_a_wait_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Retry(after_s=wrong)  # type: ignore[arg-type]


def test_a_retry_goes_through_a_pickle_and_says_what_it_is() -> None:
    error: Retry = pickle.loads(pickle.dumps(Retry("busy", after_s="5m")))
    assert (str(error), error.after_s) == ("busy", 300.0)
    assert str(Retry()) == "the job asked for another attempt" and Retry().after_s is None


@pytest.mark.parametrize("after_s", [-0.1, 86401, "1", True, [1]])
def test_a_forged_wait_is_a_protocol_error(after_s: object) -> None:
    forged = Raised("exception")._replace(after_s=after_s)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError)):
        Raised.decode(forged.encode())


ENDINGS = [code for code, row in CODES.items() if row.state is not None]
LIMITS = Limits(**{**DEFAULT_LIMITS, "attempts_max": 2, "backoff_s": 0.0})


@pytest.mark.row("D25")
@pytest.mark.parametrize("code", ENDINGS)
@pytest.mark.parametrize("asked", ["not", "by code", "by exception"])
@pytest.mark.parametrize("may_repeat", [True, False])
@pytest.mark.parametrize("may_void", [True, False])
def test_each_ending_and_each_word_of_the_author(code: str, asked: str, may_repeat: bool, may_void: bool) -> None:
    outcome = Outcome("failed", code, is_transient=asked == "by exception")
    job_type = JobType("t", "", {}, "p", "json", LIMITS, {}, retry_codes=(code,) if asked == "by code" else ())
    wait_s = retries.wait_s(
        outcome, job_type, LIMITS, 1, may_repeat=may_repeat, may_void=may_void, left_s=60.0, share=0.5
    )
    expected = may_repeat or may_void if asked != "not" else may_repeat
    if asked == "not" and not CODES[code].retryable:
        expected = False
    assert (wait_s is not None) == expected


def test_a_wait_is_bounded_by_what_is_left_and_by_the_attempts() -> None:
    job_type = JobType("t", "", {}, "p", "json", LIMITS, {})
    asked = Outcome("failed", "exception", is_transient=True, after_s=30.0)
    facts = {"may_repeat": True, "share": 0.9}
    assert retries.wait_s(asked, job_type, LIMITS, 1, left_s=31.0, **facts) == 30.0  # type: ignore[arg-type]
    assert retries.wait_s(asked, job_type, LIMITS, 1, left_s=30.0, **facts) is None  # type: ignore[arg-type]
    assert retries.wait_s(asked, job_type, LIMITS, 2, left_s=99.0, **facts) is None  # type: ignore[arg-type]
    assert retries.wait_s(Outcome("completed"), job_type, LIMITS, 1, left_s=99.0, **facts) is None  # type: ignore[arg-type]
