"""Measure chat over OpenAI's routes beside the engine in process and llama.cpp's own server: a stream that is closed,
the first token, tokens a second.

Runs in: the benchmark. killable's server and llama.cpp's are processes of their own, the client is a raw socket. All of
them have the model SmolLM2 and a warm cache of the prompt.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import runner
from llama_server import KEY, engine
from measurement import Figure, Samples
from trial_plan import Plan

from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.api.cli.bench.raw_connection import RawConnection

CLOSED_MS = "closing a stream → its process is dead, ms"
FIRST_MS = "first token over HTTP, ms"
ENGINE_MS = "first token of the engine in process, ms"
OURS = "tokens/s, {} at once"
LLAMAS = "tokens/s of llama.cpp's server, {} at once"

START_S = 60.0

MODEL = "smollm2-135m-instruct"
TOKENS = 128
"""Of each answer that is timed whole."""
FEW = 2
"""Of each answer whose first token is timed."""
SETTINGS = """
[server]
port = 0
[pools.llm]
module = ["killable.workers.builtin.generate", "killable.workers.builtin.chat"]
start_method = "spawn"
workers = {workers}
spares = {spares}
jobs_per_worker_max = 0
nice = 0
"""
"""As nice as the servers beside it: a load from outside is then shared alike."""
_TOKEN = b'"content":"'


def asked(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}


class ChatClient:
    """A connection to a server that chats."""

    def __init__(self, port: int, key: str = "") -> None:
        self._port, self._key = port, key

    async def first_token(self, text: str, tokens: int = TOKENS) -> tuple[RawConnection, bytes, float]:
        """Ask on a new connection. Return it with the first chunk that has text, and the seconds until that."""
        connection = await RawConnection.open(self._port, self._key)
        began = time.monotonic()
        connection.send("POST", "/v1/chat/completions", asked(text, tokens))
        line = await connection.line_with(_TOKEN)
        while b'"content":""' in line:
            line = await connection.line_with(_TOKEN)
        return connection, line, time.monotonic() - began

    async def whole(self, text: str) -> tuple[int, float]:
        """Return the tokens of an answer, and the seconds from the request to its end."""
        began = time.monotonic()
        connection, _, _ = await self.first_token(text)
        tokens = 1
        while b"[DONE]" not in (line := await connection.reader.readline()):
            tokens += _TOKEN in line
        took_s = time.monotonic() - began
        await connection.close()
        return tokens, took_s


@asynccontextmanager
async def process_of(*command: str, cwd: Path | None = None) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a server, and give it with the first line that it says; at the end its stdin is closed, and it is ended."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=cwd, env=dict(os.environ)
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {await process.wait()}: {' '.join(command)}")
        yield process, line.decode()
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def killable_server(workers: int, spares: int = 0) -> AsyncIterator[ChatClient]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "killable.toml").write_text(SETTINGS.format(workers=workers, spares=spares))
        command = (sys.executable, "-m", "killable.api.cli", "serve", "--json")
        async with process_of(*command, cwd=Path(folder)) as (_, line):
            client = ChatClient(int(json.loads(line)["url"].rpartition(":")[2]))
            await warm(client, workers)
            yield client


@asynccontextmanager
async def llama_server(at_once: int) -> AsyncIterator[ChatClient]:
    """As many threads and slots as there are answers at once: what each of killable's workers has, together."""
    program = str(Path(__file__).with_name("llama_server.py"))
    async with process_of(sys.executable, program, str(at_once), str(at_once)) as (_, line):
        client = ChatClient(int(line), KEY)
        await warm(client, at_once)
        yield client


TEXTS = ("Tell me a story about a fox.", "Explain how bread is made.")


async def warm(client: ChatClient, at_once: int) -> None:
    """Have every worker, or slot, answer twice: its engine has then read the prompts."""
    for _ in range(2):
        await asyncio.gather(*(client.whole(text) for text in TEXTS[:at_once]))


async def measure_closed(plan: Plan, results: Samples) -> None:
    """Close streams in the middle of an answer; a child watches the pidfds of the workers."""
    async with killable_server(workers=1, spares=1) as client:
        with PidfdWatcher() as watcher:
            caller = await RawConnection.open(client._port)
            for _ in range(plan.kills):
                stream, line, _ = await client.first_token(TEXTS[0])
                job_id = "job-" + json.loads(line.removeprefix(b"data: "))["id"].removeprefix("chatcmpl-")
                record = await caller.request("GET", f"/v1/jobs/{job_id}")
                watched = watcher.watch(record["pid"])
                closed = time.monotonic()
                await stream.close()
                await asyncio.sleep(0)  # the transport closes in the next turn
                died = await asyncio.to_thread(watcher.died_at, watched)
                results.add(CLOSED_MS, (died - closed) * 1000)
            await caller.close()


async def measure_first(plan: Plan, results: Samples) -> None:
    """Ask by turns over HTTP and the engine in this process, both idle and with the prompt read before.

    Both answer to their end: an engine that is told to stop computes its next token all the same, beside the other one.
    """
    loaded = engine(1, 1)

    def in_process() -> float:
        found: list[float] = []
        began = time.monotonic()

        def on_chunk(chunk: dict[str, Any]) -> bool:
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                found.append(time.monotonic() - began)
            return False

        loaded.handle_chat_completions(asked(TEXTS[0], FEW), on_chunk)
        return found[0]

    in_process()
    async with killable_server(workers=1) as client:
        for _ in range(plan.first_lines // 5):
            results.add(ENGINE_MS, await asyncio.to_thread(in_process) * 1000)
            connection, _, took_s = await client.first_token(TEXTS[0], FEW)
            results.add(FIRST_MS, took_s * 1000)
            while b"[DONE]" not in await connection.reader.readline():
                pass
            await connection.close()


async def measure_rates(plan: Plan, results: Samples) -> None:
    """Have both servers answer by turns, one request and two at once."""
    for at_once in (1, 2):
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(killable_server(workers=at_once))
            llamas = await stack.enter_async_context(llama_server(at_once))
            for _ in range(max(3, plan.kills)):
                for client, name in ((ours, OURS), (llamas, LLAMAS)):
                    began = time.monotonic()
                    answers = await asyncio.gather(*(client.whole(text) for text in TEXTS[:at_once]))
                    took_s = time.monotonic() - began
                    results.add(name.format(at_once), sum(tokens for tokens, _ in answers) / took_s)


PARTS: dict[str, runner.Part] = {
    "closed streams": measure_closed,
    "first tokens": measure_first,
    "tokens a second": measure_rates,
}


def figures(results: Samples) -> list[Figure]:
    """Return every target with its measured value, all of them medians."""
    first, engines = results.median(FIRST_MS), results.median(ENGINE_MS)
    added = None if first is None or engines is None else first - engines
    rates = [(count, results.median(OURS.format(count)), results.median(LLAMAS.format(count))) for count in (1, 2)]
    return [
        Figure(
            "closing a stream → its process is dead, grace 0", 50.0, results.median(CLOSED_MS), "ms", digits=2,
            note=results.spread(CLOSED_MS, 2),
        ),
        Figure(
            "first token over HTTP, beside the engine in process", 5.0, added, "ms more", digits=2,
            note=f"{results.spread(FIRST_MS, 2)} beside {results.spread(ENGINE_MS, 2)}",
        ),
        *(
            Figure(
                f"tokens/s, {count} at once, beside llama.cpp's own server", 0.97,
                None if ours is None or llamas is None else ours / llamas, "×", at_least=True, digits=3,
                note=f"{results.spread(OURS.format(count), 0)} beside {results.spread(LLAMAS.format(count), 0)}",
            )
            for count, ours, llamas in rates
        ),
    ]  # fmt: skip


def notes(results: Samples) -> list[str]:
    return []


if __name__ == "__main__":
    runner.run(runner.command("bench_openai", PARTS, figures, notes), __doc__)
