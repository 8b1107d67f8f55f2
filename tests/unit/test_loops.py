"""Work aside: its thread, and whose its result is."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from killable.supervisor import loops


class Result:
    """Something that is to go when nobody wants it."""


async def test_what_nobody_waits_for_any_more_is_kept_by_nobody() -> None:
    may_end, results = threading.Event(), list[weakref.ref[Result]]()

    def make() -> Result:
        may_end.wait(60)
        made = Result()
        results.append(weakref.ref(made))
        return made

    waiting = asyncio.ensure_future(loops.in_thread(asyncio.get_running_loop(), make))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    while not results or any(each.name == "killable-aside" for each in threading.enumerate()):
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # it hands its result in here, if anywhere
    gc.collect()
    assert results[0]() is None
    await loops.threads_are_done(60)
