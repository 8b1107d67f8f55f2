"""Answers that are too large to be parsed, joined or sent in one turn of the event loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from killable.api.http.writes import WRITE_BYTES
from killable.api.openai.chat_choices import OBJECT_BYTES_MAX
from killable.api.openai.large_answers import whole_answer
from killable.api.openai.vectors_and_tokens import TextOfTokens, TokensOfText
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX
from killable.supervisor.records import JobRecord
from killable.workers.protocol.messages import dump_json

LONG = 'ä"\\\\' * (OBJECT_BYTES_MAX // 8)
MANY = list(range(OBJECT_BYTES_MAX // 4))
PIECES = [{"id": -number, "piece": '"},{]\\"' * (number % 9)} for number in range(OBJECT_BYTES_MAX // 20)]


def told(form: TokensOfText | TextOfTokens, result: Any) -> Any:
    form.take_record(0, JobRecord(**(dict.fromkeys(JobRecord._fields) | {"result": dump_json(result)})))
    return json.loads(b"".join(form.whole()))


@pytest.mark.parametrize("tokens", [[], [3, 4], ["a"], MANY, PIECES, [1.5] * len(MANY)])
def test_tokens_are_counted_however_many_there_are(tokens: list[Any]) -> None:
    answer = {"tokens": tokens, "count": len(tokens), "max_model_len": 8}
    assert told(TokensOfText(), {"n": 1, "tokens": tokens, "max_model_len": 8}) == answer


@pytest.mark.parametrize("text", ["", 'a"b', LONG, "\\" * OBJECT_BYTES_MAX])
def test_a_text_is_told_however_long_it_is(text: str) -> None:
    for result in ({"content": text}, {"n": "", "content": text}):
        assert told(TextOfTokens(), result) == {"content": text, "prompt": text}


@pytest.mark.parametrize(
    "form, result",
    [
        (TokensOfText, {"tokens": 5}),
        (TokensOfText, {"tokens": {"a": 1}}),
        (TokensOfText, {"tokens": [MANY]}),
        (TokensOfText, {"tokens": [1], "more": MANY}),
        (TokensOfText, {"more": {"tokens": MANY}}),
        (TokensOfText, {"more": {"tokens": MANY}, "tokens": []}),
        (TokensOfText, {'"tokens': MANY}),
        (TextOfTokens, {"content": LONG, "more": "a"}),
        (TextOfTokens, {"content": "a", "more": LONG}),
        (TextOfTokens, {"text": LONG}),
        (TextOfTokens, [{"content": LONG}]),
    ],
)
def test_what_a_job_has_not_been_asked_for_is_refused(form: Any, result: Any) -> None:
    with pytest.raises(ValueError):
        told(form(), result)


async def test_it_is_looked_at_and_sent_in_turns() -> None:
    """The event loop goes on meanwhile: a kill waits for no answer."""
    pieces = [bytearray(b"x" * WRITE_BYTES)] * 20
    looking = asyncio.ensure_future(whole_answer("job-1", iter(pieces), {"A": "b"}))
    turns = 0
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= len(pieces) // WAKES_MAX
    answer = await looking
    assert isinstance(answer, StreamingResponse) and answer.headers["a"] == "b"
    sizes = [len(part) async for part in answer.body_iterator]
    assert sizes == [WRITE_BYTES] * 20 and answer.headers["content-length"] == str(sum(sizes))
