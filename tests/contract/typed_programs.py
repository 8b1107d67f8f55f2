"""Programs as a type checker sees them: what each call returns, and mistakes that it has to find. Never run.

`test_typing.py` checks it with mypy --strict. An `ignore` that is not needed is an error there: each of them is a
mistake that is found. pyright: `nox -s pyright`.
"""
# pyright: strict

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, assert_type

from killable import AsyncStream, Context, Executor, JobError, JobFuture, Stream


def length(text: str, factor: int = 1) -> int:
    return len(text) * factor


def words(text: str) -> Iterator[str]:
    yield from text.split()


def watched(ctx: Context, text: str) -> float:
    ctx.progress(1.0)
    return float(text)


def watched_words(ctx: Context, text: str) -> Iterator[bytes]:
    yield text.encode()


class Model:
    def __init__(self, path: str) -> None:
        self.path = path

    def answer(self, question: str) -> str:
        return question

    def __call__(self, question: str) -> bytes:
        return question.encode()


def submits(ex: Executor, model: Model) -> None:
    assert_type(ex.submit(length, "x").result(), int)
    assert_type(ex.submit(length, "x", factor=2).result(timeout=5), int)
    assert_type(ex.submit(watched, "1.5").result(), float)
    assert_type(ex.submit(model.answer, "why?").result(), str)
    assert_type(ex.submit(model, "why?").result(), bytes)
    assert_type(ex.submit(Model, "path").result(), Model)
    assert_type(ex.submit(partial(length, "x"), factor=2).result(), int)
    assert_type(ex.submit(lambda: 1.5).result(), float)
    assert_type(ex.submit(math.factorial, 5).result(), int)
    assert_type(ex.with_limits(run_s=5, memory_bytes="1GiB").submit(length, "x").result(), int)
    future: Future[int] = ex.submit(length, "x")
    assert_type(future.exception(), BaseException | None)
    ex.submit(length, 5)  # type: ignore[call-overload]  # pyright: ignore
    ex.submit(length)  # type: ignore[call-overload]  # pyright: ignore
    ex.submit(length, "x", faktor=2)  # type: ignore[call-arg]  # pyright: ignore
    ex.submit(watched, 5)  # type: ignore[call-overload]  # pyright: ignore
    ex.submit(length("x"))  # type: ignore[call-overload]  # pyright: ignore


def ends(future: JobFuture[int]) -> None:
    assert_type(future.error, JobError | None)
    print(future.certificate["cause"])


def futures(ex: Executor) -> None:
    future: JobFuture[int] = ex.submit(length, "x")
    future.add_done_callback(ends)
    future.add_done_callback(lambda done: print(done.stdout))
    ex.submit(watched, "1.5").add_done_callback(ends)  # type: ignore[arg-type]  # pyright: ignore


def streams(ex: Executor) -> None:
    named: Stream[str] = ex.stream(words, "a b")
    print(named)
    for word in ex.stream(words, "a b"):
        assert_type(word, str)
    for block in ex.stream(watched_words, "a b"):
        assert_type(block, bytes)
    with ex.stream(words, "a b") as stream:
        assert_type(next(stream), str)
    ex.stream(words, 5)  # type: ignore[call-overload]  # pyright: ignore
    ex.stream(length, "x")  # type: ignore[call-overload]  # pyright: ignore


async def streams_in_a_coroutine(ex: Executor) -> AsyncIterator[str]:
    named: AsyncStream[str] = ex.astream(words, "a b")
    print(named)
    async for word in ex.astream(words, "a b"):
        assert_type(word, str)
        yield word
    async with ex.astream(watched_words, "a b") as stream:
        assert_type(await anext(stream), bytes)
        assert_type([block async for block in stream], list[bytes])
    await stream.aclose()
    ex.astream(words, 5)  # type: ignore[call-overload]  # pyright: ignore


def maps(ex: Executor, texts: Iterable[str]) -> None:
    assert_type(list(ex.map(length, texts)), list[int])
    assert_type(list(ex.map(length, texts, range(5), timeout=5, chunksize=10, buffersize=2)), list[int])
    assert_type(list(ex.map_unordered(length, texts)), list[int])
    for each in ex.map(length, texts, return_exceptions=True):
        assert_type(each, int | BaseException)
        if isinstance(each, BaseException):
            raise each
        assert_type(each, int)
    for each in ex.map_unordered(length, texts, return_exceptions=True):
        assert_type(each, int | BaseException)
    ex.map(5, texts)  # type: ignore[call-overload]  # pyright: ignore
    ex.map(length, 5)  # type: ignore[call-overload]  # pyright: ignore


async def asynchronous() -> None:
    async with Executor(max_workers=2, run_s=5) as ex:
        assert_type(ex, Executor)
        assert_type(await asyncio.wrap_future(ex.submit(length, "x")), int)
        assert_type(await asyncio.get_running_loop().run_in_executor(ex, length, "x"), int)
    await ex.ashutdown(cancel_futures=True)
    await ex.aterminate_workers(grace_s=2)


def in_a_block() -> None:
    with Executor() as ex:
        assert_type(ex.submit(length, "x").result(), int)


def with_what_is_not_typed(ex: Executor, function: Any) -> None:
    assert_type(ex.submit(function, 1, two=2).result(), Any)
