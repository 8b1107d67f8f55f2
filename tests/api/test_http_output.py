"""The output of a job, put together again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, Server, problem_of

from killable.api.explanation.story import LAST_TOKENS_CHARS
from killable.api.http import joined_output
from killable.api.http.joined_output import TOKENS_A_TURN, decoded, pieces_of
from killable.api.http.routes_story import TOKEN_BYTES, told_token
from killable.api.http.writes import WRITE_BYTES
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX
from killable.workers.protocol.codec import JsonCodec


async def test_texts_one_after_the_other(server: Server) -> None:
    texts = ["one", " two\n", "", "ü\u2028\U0001f600", "\ud800", "[DONE]"]
    job_id = await server.submit("say", values=texts)
    await server.record(job_id, wait_s=60)
    answer = await server.client.get(f"/v1/jobs/{job_id}/output")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content == "one two\nü\u2028\U0001f600\\ud800[DONE]".encode()


async def test_bytes_are_bytes_and_values_are_lines(server: Server) -> None:
    job_id = await server.submit("mixes")
    await server.record(job_id, wait_s=60)
    answer = await server.client.get(f"/v1/jobs/{job_id}/output")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == b'\x00\xfftext{"half":0.5}\n{"base64":"AA=="}\nnull\n'
    job_id = await server.submit("reports")
    await server.record(job_id, wait_s=60)
    assert (await server.client.get(f"/v1/jobs/{job_id}/output")).text == '{"half":0.5}\n'


async def test_what_there_is_so_far_and_after_a_kill(server: Server, tmp_path: Path) -> None:
    job_id = await server.submit("gated", gates=[str(tmp_path / "never")])
    await server.read(job_id, until="token")
    for state in ("running", "cancelled"):
        assert (await server.client.get(f"/v1/jobs/{job_id}/output")).text == "first"
        assert (await server.record(job_id))["state"] == state
        await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")


async def test_a_long_output_comes_whole_and_in_pieces(server: Server) -> None:
    job_id = await server.submit("count", n=20_000)
    await server.record(job_id, wait_s=60)
    async with server.client.stream("GET", f"/v1/jobs/{job_id}/output") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        text = "".join([part async for part in answer.aiter_text()])
    assert text == "".join(f" {number}" for number in range(20_000))


@pytest.mark.own_server
async def test_many_small_tokens_are_decoded_in_turns(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await server.submit("count", n=20_000)
    await server.record(job_id, wait_s=60)
    record, turns, at = await server.supervisor.get(job_id), 0, []

    def counted(tokens: Sequence[bytes]) -> Iterator[bytes | memoryview]:
        at.append((turns, len(tokens)))
        return decoded(tokens)

    async def read() -> None:
        async for _ in pieces_of(server.supervisor, record):
            pass

    monkeypatch.setattr(joined_output, "decoded", counted)
    reading = asyncio.create_task(read())
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert max(number for _, number in at) <= TOKENS_A_TURN
    assert max(Counter(turn for turn, _ in at).values()) <= 2 * WAKES_MAX
    assert sum(number for _, number in at) == 20_000


LARGE = {
    "plain": "x" * 200_000,
    "escapes": '\n"\\' * 70_000,
    "one shifted": "x" + "\\" * 200_000,
    "umlauts": "ü" * 40_000,
    "pairs": "a\U0001f600" * 20_000,
    "halves": "\ud83d" * 40_000 + "x" + "\ude00" * 40_000,
    "escaped names of halves": "\\ud83d" * 40_000,
    "bytes": bytes(range(256)) * 1001,
    "value": ["ü", None, {"text": 0.5}] * 10_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_token_comes_in_parts(name: str) -> None:
    value: Any = LARGE[name]
    whole = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode() + b"\n"
    if isinstance(value, str):
        # Halves that stand side by side are one character in JSON.
        whole = json.loads(json.dumps(value)).encode("utf-8", "backslashreplace")
    tokens = [JsonCodec().encode_token(each) for each in ("before", value, "behind")]
    pieces = list(decoded(tokens))
    assert b"".join(pieces) == b"before" + whole + b"behind"
    assert len(pieces) > 3 and max(map(len, pieces)) <= WRITE_BYTES


@pytest.mark.parametrize("name", LARGE)
def test_of_a_large_token_a_story_has_the_end(name: str) -> None:
    value: Any = LARGE[name]
    for size in (1 << 30, TOKEN_BYTES + 1, TOKEN_BYTES):
        data = JsonCodec().encode_token(value if size == 1 << 30 else value[:size])
        told = told_token(data)
        assert len(str(told)) < 2 * TOKEN_BYTES
        whole = json.loads(data)
        if isinstance(value, str):
            assert told["text"][-LAST_TOKENS_CHARS:] == whole["text"][-LAST_TOKENS_CHARS:]
        elif isinstance(value, bytes):
            assert set(told) == {"base64"}
        else:
            assert len(told["text"]) >= LAST_TOKENS_CHARS and data[:-1].endswith(told["text"][:-1].encode())


async def test_nothing_is_an_output_too(server: Server) -> None:
    job_id = await server.submit("echo")
    await server.record(job_id, wait_s=60)
    answer = await server.client.get(f"/v1/jobs/{job_id}/output")
    assert (answer.status_code, answer.content) == (200, b"")
    problem_of(await server.client.get("/v1/jobs/job-0/output"), 404, "unknown_job")


@pytest.mark.own_server
async def test_what_comes_meanwhile_is_left_out_as_it_may_be_of_another_kind(server: OwnServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await server.submit("gated", gates=[str(gate)])
    await server.read(job_id, until="token")
    record = await server.supervisor.get(job_id)
    gate.touch()
    await server.record(job_id, wait_s=60)
    assert b"".join([piece async for piece in pieces_of(server.supervisor, record)]) == b"first"


async def test_a_browser_saves_what_a_job_says_and_runs_nothing_of_it(server: Server) -> None:
    page = "<script>alert(1)</script>"
    said = await server.submit("say", values=[page])
    laid = await server.submit("checkpoints", values=[page])
    for job_id in (said, laid):
        await server.record(job_id, wait_s=60)
    for address, name in (
        (f"{said}/output", f"{said}.txt"),
        (f"{said}/result", f"{said}-result.json"),
        (f"{laid}/partial", f"{laid}-partial.json"),
        (f"{said}/stream", ""),
        (said, ""),
        ("", ""),
    ):
        answer = await server.client.get(f"/v1/jobs/{address}".rstrip("/"))
        assert answer.headers["x-content-type-options"] == "nosniff", address
        assert answer.headers.get("content-disposition", "") == (f'attachment; filename="{name}"' if name else "")
        assert "html" not in answer.headers["content-type"]
