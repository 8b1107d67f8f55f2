"""What a job says, as an answer over MCP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.virtual_loop import run

from killable.api.mcp.progress import MESSAGE_CHARS_MAX, CallProgress
from killable.api.mcp.progress_pace import EVERY_S, PacedProgress
from killable.api.mcp.tool_results import CallEnding, CallOutput
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


@pytest.mark.parametrize("text", ["AAA", "%%%", "e30-_w", "\ud800", "ä", "AA==\n"])
def test_an_object_that_only_looks_like_bytes_is_told_as_it_is(text: str) -> None:
    end = {"job_id": "job-1", "state": "completed", "partial": None, "result": {"base64": text}}
    answer = CallEnding(json.dumps(end).encode(), {}, "http://x/v1/jobs/job-1").answer(CallOutput(1000))
    (block,) = answer.content
    assert block.type == "text" and json.loads(block.text) == answer.structured_content
    assert answer.structured_content == {"base64": text.replace("\ud800", "\ufffd")}


def report_of(done: int, unit: str = "") -> JobEvent:
    return JobEvent(done, "progress", json.dumps({"done": done, "total": 20_000, "unit": unit}).encode())


def token_of(text: str) -> JobEvent:
    return JobEvent(0, "token", json.dumps({"text": text}, separators=(",", ":")).encode())


def test_half_a_character_of_a_report_of_progress_neither() -> None:
    progress = CallProgress()
    progress.add([JobEvent(0, "progress", b'{"done": 1, "total": 2, "unit": "\\ud800 \\ud83d\\ude00"}')])
    (note,) = progress.take()
    assert note.message == "1 of 2 \ufffd \U0001f600"


def test_of_what_came_at_once_all_text_is_told_and_the_latest_report() -> None:
    progress = CallProgress()
    progress.add([token_of("a"), report_of(1), token_of("b"), report_of(2)])
    progress.add([token_of("c"), JobEvent(0, "retrying", b'{"attempt": 1, "wait_s": 2}'), token_of("d")])
    told = [message for _, _, message in progress.take()]
    assert told == ["2 of 20000", "abc", "attempt 1 failed, the next one begins in 2 s", "d"]
    assert progress.take() == []


@pytest.mark.parametrize("text", ["x", "ä", "\x01", "🦀"])
def test_a_message_has_its_size_however_much_has_come(text: str) -> None:
    progress = CallProgress()
    progress.add([token_of(text * 100)] * MESSAGE_CHARS_MAX)
    (note,) = progress.take()
    assert MESSAGE_CHARS_MAX * 0.9 < len(note.message) <= MESSAGE_CHARS_MAX and note.message.endswith("…")
    assert note.progress == MESSAGE_CHARS_MAX, "it counts all tokens"


@pytest.mark.parametrize("before", [0, 3])
def test_of_a_token_that_is_too_large_to_be_held_the_beginning_is_told(before: int) -> None:
    progress = CallProgress()
    progress.add([token_of("a")] * before + [token_of("x" * (200 << 10)), token_of("y")])
    (note,) = progress.take()
    assert note.message == "a" * before + "x" * (MESSAGE_CHARS_MAX - 1 - before) + "…"


async def told_of(reports: int, seconds: float) -> tuple[list[float], list[str]]:
    """Report so often in a time, evenly; return when a client was told, and what."""
    loop, at, told = asyncio.get_running_loop(), list[float](), list[str]()

    async def tell(number: float, total: float | None, message: str) -> None:
        at.append(loop.time())
        told.append(message)

    paced = PacedProgress(tell)
    began = loop.time()
    for number in range(1, reports + 1):
        paced.add([report_of(number)])
        await asyncio.sleep(seconds / reports)
    await paced.finish()
    paced.close()
    return [time - began for time in at], told


def test_a_client_is_told_at_once_then_at_a_pace_and_the_last_always() -> None:
    at, told = run(told_of(20_000, seconds=1))
    assert (told[0], told[-1]) == ("1 of 20000", "20000 of 20000")
    assert at[0] < 0.001 and len(told) <= 2 + 1 / EVERY_S
    at, told = run(told_of(3, seconds=3))
    assert told == ["1 of 20000", "2 of 20000", "3 of 20000"] and at[1] < 1.001, "one alone waits for nothing"
