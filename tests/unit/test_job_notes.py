"""What is told of a job's end, whatever the job has said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.registered_jobs import add, registry

from killable.supervisor.journal.job_notes import JobNotes
from killable.supervisor.journal.journal_file import EndedNote
from killable.supervisor.journal.journal_thread import Journal
from killable.supervisor.models import Outcome


@pytest.mark.row("B16")
@pytest.mark.parametrize(
    ("progress", "written"),
    [(None, None), ({"done": 1}, {"done": 1}), ({"done": float("inf")}, None), ({"done": float("nan")}, None)],
)
def test_progress_that_is_no_json_does_not_hold_up_the_end(progress: Any, written: Any) -> None:
    """A worker that forges frames can say 1e999."""
    journal = Journal("")
    told: list[Any] = []
    journal.note = lambda note, answer=None: told.append(note)  # type: ignore[method-assign]
    job = add(registry(), progress=progress, outcome=Outcome("completed"), result=b"1")
    JobNotes(journal, "instance", "boot").ended(job, lambda why: None)
    (note,) = told
    assert isinstance(note, EndedNote) and note.result == b"1"
    assert json.loads(note.members)["progress"] == written
