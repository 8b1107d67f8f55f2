"""Waiting, in an event loop, for the end of a call that was cancelled: a timeout of asyncio's does not.

Runs in: any thread of the program that runs an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from killable.supervisor import event_loops
from killable.supervisor.executor.futures import JobFuture


async def stopped(future: JobFuture[Any]) -> Mapping[str, Any] | None:
    """Wait until nothing of a call's job is alive; return its certificate, None when nobody ever took it.

    Cancels nothing, also when whoever waits is cancelled. `asyncio.wait_for` on a wrapped future cancels it and returns
    at its timeout, while the job has its grace.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not over.done():
            over.set_result(None)

    future.add_done_callback(lambda _: event_loops.tell(loop, note))
    await over
    return future.certificate
