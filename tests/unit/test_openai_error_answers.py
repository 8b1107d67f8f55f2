"""Errors as OpenAI has them, of what a job may say."""

from __future__ import annotations

from typing import Any

import pytest

from killable.api.openai.error_answers import error_of


@pytest.mark.parametrize("count", ["²", "٣", "9" * 5000, -1, "x", None, 1.5])
def test_what_is_no_count_is_not_told(count: Any) -> None:
    first = {"pointer": "/messages", "message": "is long", "prompt_tokens": count, "context_tokens": "20"}
    problem = {"code": "input.invalid", "status": 422, "detail": "too long", "faults": [first]}
    status, body, _ = error_of(problem, "/v1/chat/completions")
    assert status == 400 and body["error"]["context_tokens"] == 20 and "prompt_tokens" not in body["error"]
