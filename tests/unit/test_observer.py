"""What the observer makes of an entry."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.registered_jobs import add, registry

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.models import Outcome, Submission, Verdict
from killable.supervisor.telemetry.observer import Observer
from killable.workers.errors import Refused

CANCELLED = Outcome("cancelled", "cancelled", "The job was cancelled")


def ended(tokens: int = 0, **fields: Any) -> Job:
    log = EventLog(1 << 20)
    log.append_output([("token", b"x")] * tokens, tokens)
    defaults = {"log": log, "ended": 9.0, "state": State.CANCELLED, "outcome": CANCELLED, "certificate": {}}
    return add(registry(), **{**defaults, "verdict": Verdict("cancelled", by="user"), **fields})


@pytest.mark.row("F4")
@pytest.mark.parametrize(
    ("progress", "saved"),
    [
        (None, 0),
        ({"done": 10, "total": 100, "unit": "tokens"}, 60),  # it has emitted 40 since
        ({"done": 70, "total": 100, "unit": "token"}, 30),
        ({"done": 0, "total": 20, "unit": "tokens"}, 0),
        ({"done": 0, "total": None, "unit": "tokens"}, 0),
        ({"done": 0, "total": 100, "unit": "chars"}, 0),
        ({"done": 0, "total": "100", "unit": "tokens"}, 0),
    ],
)
def test_saved_is_what_was_announced_and_not_emitted(progress: dict[str, Any] | None, saved: int) -> None:
    observer = Observer()
    observer.on_ended(ended(tokens=40, progress=progress))
    assert (observer.metrics.tokens, observer.metrics.tokens_saved) == (40, saved)


@pytest.mark.row("F5")
def test_an_unkillable_process_is_an_error_and_a_failed_job_is_none(caplog: pytest.LogCaptureFixture) -> None:
    observer = Observer()
    with caplog.at_level(logging.INFO, logger="killable.jobs"):
        observer.on_ended(ended(outcome=Outcome("failed", "exception", "no luck")))
        observer.on_ended(ended(outcome=Outcome("failed", "unkillable", "still there")))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "failed"), (logging.ERROR, "failed"),
    ]  # fmt: skip


@pytest.mark.row("A26")
def test_the_correlation_id_is_in_every_record_of_a_job_and_in_refusals(caplog: pytest.LogCaptureFixture) -> None:
    observer, submission = Observer(), Submission("work", b"", correlation_id="c-1")
    entry = ended(submission=submission, assigned=1.0, started=2.0)
    with caplog.at_level(logging.INFO, logger="killable.jobs"):
        observer.on_submitted(entry)
        observer.on_entered(entry)
        observer.on_cancel_asked(entry, Verdict("cancelled", by="user"), None)
        observer.on_ended(entry)
        observer.on_refused(submission, Refused("full", code="queue_full"))
    assert [getattr(record, "correlation_id", None) for record in caplog.records] == ["c-1"] * 5
    assert [getattr(record, "job_id", None) for record in caplog.records] == [entry.id] * 4 + [None]
