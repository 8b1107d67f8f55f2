"""AsyncClient behind a blocking interface.

One test suite then covers Client and AsyncClient. `BlockingClient` owns an event loop and runs each call to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from killable.api.client.async_client import AsyncClient, AsyncJobHandle
from killable.api.client.client import Client

T = TypeVar("T")


class BlockingClient:
    """An AsyncClient with an event loop of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = AsyncClient(*args, **options)
        self.runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        return blocking(self.runner, getattr(self.client, name))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self.client)


class BlockingJob:
    def __init__(self, runner: asyncio.Runner, job: AsyncJobHandle) -> None:
        self.runner = runner
        self.job = job

    def __getattr__(self, name: str) -> Any:
        return blocking(self.runner, getattr(self.job, name))

    def __iter__(self) -> Iterator[Any]:
        return iterate(self.runner, aiter(self.job))

    def __enter__(self) -> BlockingJob:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.runner.run(self.job.__aexit__(*exc))

    def __repr__(self) -> str:
        return repr(self.job).replace("AsyncJob", "Job")


OneClient: TypeAlias = Client | BlockingClient
MakeClient: TypeAlias = Callable[..., OneClient]


def blocking(runner: asyncio.Runner, value: Any) -> Any:
    """Return a value as the caller of a blocking client would have it."""
    if isinstance(value, AsyncJobHandle):
        return BlockingJob(runner, value)
    if isinstance(value, AsyncIterator):
        return iterate(runner, value)
    if isinstance(value, Awaitable):
        return blocking(runner, runner.run(awaited(value)))
    if callable(value):
        return lambda *args, **options: blocking(runner, value(*args, **options))
    return value


async def awaited(value: Awaitable[T]) -> T:
    return await value


def iterate(runner: asyncio.Runner, values: AsyncIterator[T]) -> Iterator[T]:
    async def following() -> T:
        return await anext(values)

    loop = runner.get_loop()  # without the runner's signal handler, for each of thousands of items
    try:
        while True:
            try:
                value = loop.run_until_complete(following())
            except StopAsyncIteration:
                return
            yield value
    finally:
        runner.run(values.aclose())  # type: ignore[attr-defined]  # an async generator
