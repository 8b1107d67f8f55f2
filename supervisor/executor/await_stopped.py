"""Waits in an event loop for the end of a cancelled task, which asyncio's own timeouts do not.

Runs in: any thread of the program that runs an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from killable.supervisor import event_loops
from killable.supervisor.executor.futures import JobFuture


async def stopped(future: JobFuture[Any]) -> Mapping[str, Any] | Any:
    """Wait until no process of a task is alive. Return its certificate; None if it was never accepted.

    Cancels nothing, even if the waiting coroutine is cancelled. `asyncio.wait_for` on a wrapped future cancels it and
    returns at its timeout, while the job still has its grace.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not over.done():
            over.set_result(None)

    future.add_done_callback(lambda _: event_loops.tell(loop, note))
    await over
    return future.certificate
