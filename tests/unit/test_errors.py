"""The typed errors: one table, and objects that survive the way from process to process."""

from __future__ import annotations

import concurrent.futures
import copy
import pickle
import re
from concurrent.futures.process import BrokenProcessPool

import pytest

from killable.api.cli.display.exit_codes import EXIT_CODES
from killable.api.http.statuses import STATUSES
from killable.workers.error_classes import WorkerCrashed, WorkerExited, WorkerKilled, error_class
from killable.workers.error_codes import CODES
from killable.workers.errors import JobCancelled, JobError, JobFailed, JobTimedOut, KillableError, OutOfMemory, Refused

CLASSES = [KillableError, Refused, JobError, JobCancelled, JobTimedOut, JobFailed, WorkerCrashed]
CLASSES += [OutOfMemory, WorkerExited, WorkerKilled]
FACTS = {"job_id": "job-1", "certificate": {"reaped": 1.5}, "partial": [1], "limit_s": 3.0}
COPIES = [
    *(lambda error, protocol=number: pickle.loads(pickle.dumps(error, protocol)) for number in range(6)),
    copy.copy,
    copy.deepcopy,
]


@pytest.mark.parametrize("duplicate", COPIES, ids=[*(f"pickle {number}" for number in range(6)), "copy", "deepcopy"])
@pytest.mark.parametrize("cls", CLASSES)
def test_facts_and_message_survive(cls: type[KillableError], duplicate: object) -> None:
    error = cls("what happened", code="timeout.run", **FACTS)
    again = duplicate(error)  # type: ignore[operator]
    assert type(again) is cls
    assert (again.message, str(again), again.code, again.facts) == (error.message, str(error), error.code, FACTS)
    assert (again.job_id, again.limit_s) == ("job-1", 3.0)
    assert again.retryable == error.retryable


@pytest.mark.row("B3")
@pytest.mark.parametrize(
    ("cls", "also"),
    [
        (JobCancelled, concurrent.futures.CancelledError),
        (JobTimedOut, TimeoutError),
        (WorkerCrashed, BrokenProcessPool),
        (JobFailed, JobError),
        (JobCancelled, JobError),
        (JobTimedOut, JobError),
        (WorkerCrashed, JobError),
        (OutOfMemory, MemoryError),
        (OutOfMemory, JobFailed),
        (WorkerExited, WorkerCrashed),
        (WorkerKilled, WorkerCrashed),
    ],
)
def test_they_are_what_code_that_knows_nothing_of_us_catches(cls: type[JobError], also: type[BaseException]) -> None:
    with pytest.raises(also) as caught:
        raise cls("m")
    assert str(caught.value) == "m"


@pytest.mark.row("B3")
@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_class_a_status_an_exit_code_and_a_title(code: str) -> None:
    row = CODES[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*)?", code)
    assert 400 <= STATUSES[code] <= 599 and 1 <= EXIT_CODES.get(code, 1) <= 125
    assert row.title and not row.title.endswith(".")
    cls = error_class(code)
    expected = {
        None: Refused,
        "cancelled": JobCancelled,
        "timed_out": JobTimedOut,
        "failed": cls if issubclass(cls, (JobFailed, WorkerCrashed)) else None,
    }
    assert cls is expected[row.state]
    error = cls(code=code)
    assert (error.code, error.message, error.retryable) == (code, row.title, row.retryable)


@pytest.mark.row("B3")
def test_state_and_code_go_together() -> None:
    for code, row in CODES.items():
        if row.state is not None:
            assert (code == "cancelled") == (row.state == "cancelled")
            assert code.startswith("timeout.") == (row.state == "timed_out")


def test_the_codes_of_the_specification_are_there() -> None:
    statuses = {
        "queue_full": 429, "invalid": 422, "unknown_job_type": 404, "draining": 503, "too_large": 413,
        "unauthorized": 401, "forbidden": 403, "idempotency_conflict": 422, "already_ended": 409, "no_result": 409,
        "unknown_job": 404, "unknown_worker": 404, "malformed": 400, "unsupported_media_type": 415,
        "method_not_allowed": 405, "misdirected": 421, "limit_over_cap": 422, "cancelled": 409, "timeout.run": 504,
        "timeout.queue": 504, "spawn": 503, "worker_lost": 503, "supervisor_lost": 503, "killed_externally": 503,
        "crash": 500, "exit": 500, "exception": 500, "protocol": 500, "unkillable": 500, "limit.memory": 500,
        "result.unserializable": 500, "journal_failed": 503,
    }  # fmt: skip
    assert {code: STATUSES[code] for code in statuses} == statuses
    exit_codes = {
        "cancelled": 3, "unknown_job": 4, "invalid": 65, "queue_full": 75, "draining": 75, "unauthorized": 77,
        "timeout.run": 124, "exception": 1, "crash": 1,
    }  # fmt: skip
    assert {code: EXIT_CODES.get(code, 1) for code in exit_codes} == exit_codes
    retryable = {code for code, row in CODES.items() if row.state is not None and row.retryable}
    assert retryable == {
        "timeout.queue", "timeout.start", "killed_externally", "spawn", "worker_lost", "supervisor_lost", "node_lost",
        "node_drained",
    }  # fmt: skip


def test_a_code_of_a_newer_server_is_a_failure_that_is_not_tried_again() -> None:
    cls = error_class("brand.new")
    assert cls is JobFailed
    error = cls("m", code="brand.new")
    assert (error.code, error.retryable) == ("brand.new", False)
    assert error_class("brand.new")(code="brand.new").message


def test_a_fact_that_is_not_there_is_an_attribute_error() -> None:
    error = JobFailed("m", signal="SIGSEGV")
    assert error.signal == "SIGSEGV"
    with pytest.raises(AttributeError, match="JobFailed has no attribute 'exit_code'"):
        _ = error.exit_code


def test_the_chain_of_causes_is_pythons() -> None:
    with pytest.raises(JobFailed) as caught:
        try:
            raise KeyError("x")
        except KeyError as error:
            raise JobFailed("m") from error
    assert isinstance(caught.value.__cause__, KeyError)
