"""What a job says, as an answer over MCP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from killable.api.mcp.answers import CallEnding, CallOutput
from killable.api.mcp.progress import CallProgress
from killable.supervisor.models import JobEvent


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_half_a_character_does_not_take_the_answer_with_it(state: str) -> None:
    error = {"code": "exception", "message": "no \ud800 luck", "retryable": False}
    end: dict[str, Any] = {"job_id": "job-1", "state": state, "partial": None, "certificate": None}
    end |= {"result": {"\ud800": ["a\udfff", 1]}, "error": error if state == "failed" else None}
    job = {"type": "t", "limits": {}, "nodes": None}
    answer = CallEnding(json.dumps(end).encode(), job, "http://x/v1/jobs/job-1").answer(CallOutput(1000))
    text = answer.model_dump_json()  # raises for what UTF-8 does not have
    assert ("no \ufffd luck" if state == "failed" else "a\ufffd") in text


def test_half_a_character_of_a_report_of_progress_neither() -> None:
    (note,) = CallProgress().notes(
        [JobEvent(0, "progress", b'{"done": 1, "total": 2, "unit": "\\ud800 \\ud83d\\ude00"}')]
    )
    assert note.message == "1 of 2 \ufffd \U0001f600"
