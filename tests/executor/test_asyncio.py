"""An Executor in a program of asyncio: nothing blocks the event loop, and a cancelled task ends its calls."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.executor_lanes import stalled_supervisor_thread
from support.waiting import until_async

from killable import Executor


def is_gone(pid: int) -> bool:
    return processes.read_process(pid) is None


async def pid_in(path: Path) -> int:
    await until_async(path.exists, f"{path.name} is there")
    return int(path.read_text())


# ── async with ──


async def test_leaving_an_async_with_waits_while_the_loop_turns(tmp_path: Path) -> None:
    async def open_the_gate(executor: Executor) -> None:
        def is_closed() -> bool:
            try:
                executor.submit(int)
            except RuntimeError:
                return True
            return False

        await until_async(is_closed, "the executor takes no more calls")
        assert not future.done()
        executor_tasks.say(str(tmp_path / "gate"))

    async with Executor(max_workers=1) as executor:
        future = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
        opening = asyncio.create_task(open_the_gate(executor))
    assert future.done() and future.result()
    await opening


async def test_shutting_down_can_leave_out_what_has_not_begun(tmp_path: Path) -> None:
    executor = Executor(max_workers=1, grace_s=0)
    running = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
    await until_async(running.running, "it runs")
    waiting = executor.submit(executor_tasks.square, 1)
    leaving = asyncio.create_task(executor.ashutdown(cancel_futures=True))
    await until_async(waiting.cancelled, "what has not begun is cancelled")
    executor_tasks.say(str(tmp_path / "gate"))
    await leaving
    assert running.result()
    await executor.ashutdown()
    await executor.aterminate_workers()


@pytest.mark.parametrize("where", ["in the block", "in its end"])
async def test_a_cancel_ends_the_calls_of_an_async_with(tmp_path: Path, where: str) -> None:
    async def program() -> None:
        async with Executor(max_workers=1) as executor:
            executor.submit(executor_tasks.loop, str(tmp_path / "in"))
            if where == "in the block":
                await asyncio.Event().wait()

    running = asyncio.create_task(program())
    pid = await pid_in(tmp_path / "in")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert is_gone(pid), "when the task is over, so is its call"


@pytest.mark.parametrize("end", [Executor.ashutdown, Executor.aterminate_workers])
async def test_a_further_cancel_kills(tmp_path: Path, end: Callable[[Executor], Awaitable[None]]) -> None:
    executor = Executor(max_workers=1, grace_s=600, ack_s=None)
    executor.submit(executor_tasks.clean_up_for_ever, str(tmp_path / "in"), str(tmp_path / "stopping"))
    pid = await pid_in(tmp_path / "in")
    ending = asyncio.ensure_future(end(executor))
    if end is Executor.ashutdown:
        await asyncio.sleep(0)
        ending.cancel()
    await pid_in(tmp_path / "stopping")
    assert not ending.done() and not is_gone(pid)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert is_gone(pid)


async def test_an_error_in_an_async_with_waits_for_the_calls(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with Executor(max_workers=1) as executor:
            future = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
            asyncio.get_running_loop().call_soon(executor_tasks.say, str(tmp_path / "gate"))
            raise KeyError
    assert future.result()


async def test_a_with_in_a_coroutine_that_would_block_says_so(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="write `async with`") as caught, Executor(max_workers=1) as executor:
        executor.submit(executor_tasks.square, 1)
    assert [each.filename for each in caught] == [__file__]
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning), Executor(max_workers=1) as executor:
        warnings.simplefilter("error")
        future = executor.submit(executor_tasks.square, 1)
    assert future.result(timeout=0) == 1, "it was waited for all the same"


async def test_a_with_that_blocks_nobody_says_nothing() -> None:
    """As the example in the library's documentation, and a notebook, whose cells are no coroutines."""

    def cell() -> int:
        with Executor(max_workers=1) as executor:
            future = executor.submit(executor_tasks.square, 3)
        return future.result()

    with Executor(max_workers=1) as executor:
        assert await asyncio.get_running_loop().run_in_executor(executor, executor_tasks.square, 3) == 9
    assert cell() == 9


# ── what a coroutine calls ──


async def test_submitting_and_cancelling_wait_for_nobody(own_executor: Executor) -> None:
    """The supervisor's thread stands still: who waited for it would never come back."""
    own_executor.submit(executor_tasks.square, 1).result()
    with stalled_supervisor_thread(own_executor):
        futures = [own_executor.submit(executor_tasks.square, number) for number in range(200)]
        large = own_executor.submit(len, bytes(20 << 20))
        stream = own_executor.astream(executor_tasks.count, 3)
        for future in futures[100:]:
            future.cancel()
        shut = asyncio.create_task(own_executor.ashutdown())
        await asyncio.sleep(0)
    assert [await asyncio.wrap_future(future) for future in futures[:100]] == [number**2 for number in range(100)]
    assert await asyncio.wrap_future(large) == 20 << 20 and [each async for each in stream] == [0, 1, 2]
    await shut
    assert all(future.cancelled() or future.result() == number**2 for number, future in enumerate(futures))


def by_wrap_future(executor: Executor, path: str) -> asyncio.Future[Any]:
    return asyncio.wrap_future(executor.submit(executor_tasks.hold_the_lock, path))


def by_run_in_executor(executor: Executor, path: str) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(executor, executor_tasks.hold_the_lock, path)


@pytest.mark.parametrize("call", [by_wrap_future, by_run_in_executor])
async def test_a_cancelled_task_ends_the_call_that_it_awaits(
    executor: Executor, tmp_path: Path, call: Callable[[Executor, str], asyncio.Future[Any]]
) -> None:
    async def program() -> None:
        await call(executor.with_limits(grace_s=0), str(tmp_path / "in"))

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with asyncio.TaskGroup() as group:
            group.create_task(program())
            pid = await pid_in(tmp_path / "in")
            raise ZeroDivisionError
    await until_async(lambda: is_gone(pid), "it is gone")


# ── streams ──


@pytest.mark.parametrize("where", ["in the wait for an item", "in what is done with one"])
async def test_a_cancel_of_its_reader_ends_the_call_though_the_stream_is_kept(
    executor: Executor, tmp_path: Path, where: str
) -> None:
    lines = 0 if where == "in the wait for an item" else 1
    stream = executor.with_limits(grace_s=0).astream(executor_tasks.yield_and_wait, str(tmp_path / "in"), lines=lines)
    reads, has_one = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        reads.set()
        async for _ in stream:
            has_one.set()
            await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await reads.wait()
    pid = await pid_in(tmp_path / "in")
    if lines:
        await has_one.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until_async(stream.future.cancelled, "it was cancelled")
    assert is_gone(pid)


async def test_a_stream_is_read_on_by_another_task(executor: Executor) -> None:
    stream = executor.astream(executor_tasks.count, 10)

    async def read(count: int) -> list[int]:
        numbers = []
        async for number in stream:
            numbers.append(number)
            if len(numbers) == count:
                break
        return numbers

    assert await asyncio.create_task(read(3)) == [0, 1, 2]
    assert await asyncio.create_task(read(3)) == [3, 4, 5]
    assert await read(10) == [6, 7, 8, 9] and not stream.future.cancelled()


async def test_reading_what_has_come_already_leaves_turns_to_the_loop(executor: Executor) -> None:
    """Else nobody could tell a reader behind a fast job that it is cancelled."""
    stream = executor.astream(executor_tasks.count, 30_000)
    await until_async(stream.future.done, "all of it has come")
    turns: list[int] = []

    def take_turn(read: int = 0) -> None:
        turns.append(read)

    asyncio.get_running_loop().call_soon(take_turn)
    assert [number async for number in stream] == list(range(30_000))
    assert turns


async def test_an_item_that_was_not_awaited_to_its_end_is_not_lost(executor: Executor, tmp_path: Path) -> None:
    stream = executor.astream(executor_tasks.yield_when, str(tmp_path / "gate"))
    assert await anext(stream) == "begun"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    executor_tasks.say(str(tmp_path / "gate"))
    assert [each async for each in stream] == ["gate"]


async def test_a_generator_around_a_stream_that_is_dropped_ends_the_call(executor: Executor, tmp_path: Path) -> None:
    """At once: no collection is needed."""

    async def body() -> AsyncIterator[str]:
        async for each in executor.with_limits(grace_s=0).astream(executor_tasks.yield_and_wait, str(tmp_path / "in")):
            yield each

    gc.disable()
    try:
        items = body()
        assert await anext(items) == "a line\n"
        pid = await pid_in(tmp_path / "in")
        del items
        await until_async(lambda: is_gone(pid), "it is gone")
    finally:
        gc.enable()


async def test_a_stream_that_nobody_has_read_is_no_longer_than_its_object(executor: Executor, tmp_path: Path) -> None:
    ending = executor.with_limits(grace_s=0)
    gc.disable()
    try:
        for name, make in (("stream", ending.stream), ("astream", ending.astream)):
            stream = make(executor_tasks.yield_and_wait, str(tmp_path / name))
            pid = await pid_in(tmp_path / name)
            del stream
            await until_async(lambda: is_gone(pid), "it is gone")  # noqa: B023
    finally:
        gc.enable()
