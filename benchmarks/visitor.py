"""A client on the other side of HTTP, in a process of its own: reads a stream, or deletes a job, and stamps it.

Runs in: the benchmark (Visitor) | its child (`python visitor.py URL`), through killable's own Python client.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import killable
from killable.workers.runtime import process_setup

ANSWER_S = 60.0


class Visitor:
    """The child, seen from the benchmark: asked by lines of JSON, answers by lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def follow(self, job_id: str) -> None:
        """Let it read a stream; return when it has seen the first token."""
        await self._ask({"follow": job_id})
        await self._answer()

    async def saw_the_end_at(self) -> float:
        """Return the monotonic time, in seconds, at which it saw the terminal event of the stream it follows."""
        return float((await self._answer())["terminal_at"])

    async def delete(self, job_id: str) -> float:
        """Let it cancel a job with grace 0; return its milliseconds from the request to the certificate."""
        await self._ask({"delete": job_id})
        return float((await self._answer())["answered_ms"])

    async def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        await self._process.stdin.drain()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def visiting(port: int) -> AsyncIterator[Visitor]:
    """Start a client process whose connection is open and warm; end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, f"http://127.0.0.1:{port}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        visitor = Visitor(process)
        await visitor._answer()
        yield visitor
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def main(url: str) -> None:
    process_setup.die_with(os.getppid())
    with killable.Client(url) as client:
        client.types()
        _say({"ready": True})
        for line in sys.stdin:
            request = json.loads(line)
            if "follow" in request:
                _follow(client.job(request["follow"]))
            else:
                _delete(client.job(request["delete"]))


def _follow(job: Any) -> None:
    tokens = 0
    for event in job.events():
        seen_at = time.monotonic()
        if event.name == "token":
            if not tokens:
                _say({"first_at": seen_at})
            tokens += 1
        elif event.is_terminal:
            _say({"terminal_at": seen_at, "state": event.name})


def _delete(job: Any) -> None:
    asked_at = time.monotonic()
    ending = job.cancel(grace_s=0)
    answered_at = time.monotonic()
    assert ending.state == "cancelled" and "tree_empty" in ending.certificate, ending
    _say({"answered_ms": (answered_at - asked_at) * 1000})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
