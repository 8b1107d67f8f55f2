"""Work aside: its thread, and whose its result is."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest
from support.waiting import until, until_async

from killable.supervisor import event_loops


class Result:
    """Something that is to go when nobody wants it."""


@pytest.mark.parametrize("aside", [event_loops.in_thread, event_loops.in_bounded_threads])
async def test_what_nobody_waits_for_any_more_is_kept_by_nobody(aside: Callable[..., asyncio.Future[Result]]) -> None:
    may_end, results = threading.Event(), list[weakref.ref[Result]]()

    def make() -> Result:
        may_end.wait(60)
        made = Result()
        results.append(weakref.ref(made))
        return made

    waiting = asyncio.ensure_future(aside(asyncio.get_running_loop(), make))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    while not results or any(each.name == "killable-aside" for each in threading.enumerate()):
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # it hands its result in here, if anywhere
    gc.collect()
    assert results[0]() is None
    await event_loops.threads_are_done(60)


async def test_what_is_done_in_turn_is_done_a_few_at_a_time() -> None:
    loop = asyncio.get_running_loop()
    may_end, at_once, most = threading.Event(), 0, 0

    def work(number: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        may_end.wait(60)
        at_once -= 1
        return number

    doing = [event_loops.in_bounded_threads(loop, partial(work, number)) for number in range(20)]
    await until_async(lambda: at_once == event_loops.QUEUE_THREADS_MAX, "as many as may are at it")
    may_end.set()
    assert await asyncio.gather(*doing) == list(range(20))
    assert most == event_loops.QUEUE_THREADS_MAX
    await event_loops.threads_are_done(60)


async def test_what_is_done_in_order_is_done_by_one_thread_until_the_close() -> None:
    loop = asyncio.get_running_loop()
    done: list[tuple[int, int]] = []
    for number in range(3):
        event_loops.in_order(loop, lambda number=number: done.append((number, threading.get_ident())))
        event_loops.in_order(loop, lambda: 1 // 0)  # the next one is done all the same
    event_loops.start_in_order(loop, lambda: done.append((3, threading.get_ident())))
    await event_loops.threads_are_done(60)
    assert sorted(number for number, _ in done) == [0, 1, 2, 3]
    assert len({thread for number, thread in done if number < 3}) == 1
    event_loops.in_order(loop, lambda: done.append((4, threading.get_ident())))
    await event_loops.threads_are_done(60)
    assert done[-1][0] == 4, "a close is not for ever"


async def test_two_closes_of_one_loop_are_both_told_when_the_last_thread_has_ended() -> None:
    may_end = threading.Event()
    working = event_loops.in_thread(asyncio.get_running_loop(), may_end.wait)
    closing = [asyncio.ensure_future(event_loops.threads_are_done(60)) for _ in range(2)]
    await asyncio.sleep(0)
    may_end.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*closing)
    assert await working


async def test_without_a_thread_nothing_that_was_to_run_in_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    is_done = asyncio.Event()
    event_loops.in_order(loop, lambda: None)

    def start(_: threading.Thread) -> None:
        event_loops.tell(loop, is_done.set)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        event_loops.start_in_order(loop, lambda: None)
        await is_done.wait()
    await event_loops.threads_are_done(60)
    assert not any(each.name == "killable-aside" for each in threading.enumerate())


def test_a_loop_is_kept_by_nothing_of_this() -> None:
    """An Executor has one of its own, and a program may have many Executors."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(event_loops.in_bounded_threads(loop, int))
    left = event_loops.in_bounded_threads(loop, partial(threading.Event().wait, 0.01))
    loop.close()
    seen = weakref.ref(loop)
    del loop, left
    assert until(lambda: gc.collect() is not None and seen() is None, "it is collected")
