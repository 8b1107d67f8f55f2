"""An application with every way to write a streaming response of what a call yields, in Starlette and FastAPI.

Runs in: a uvicorn of its own. Collections are off: a call must end without one.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import executor_tasks
from fastapi import FastAPI
from fastapi import Request as FastRequest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from killable import Executor

gc.disable()

LARGE = 8 << 20
"""More bytes than the buffers between server and client take: the response waits in `send`."""
JOBS: dict[str, tuple[Any, ...]] = {
    "silent": (executor_tasks.yield_and_wait,),
    "busy": (executor_tasks.yield_for_ever,),
    "large": (executor_tasks.yield_and_wait, LARGE, 3),
}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with Executor(max_workers=2) as app.state.executor:
        yield


def call_of(request: Request) -> tuple[Any, ...]:
    """Return the executor, and what it is to call."""
    function, *more = JOBS[request.query_params["job"]]
    folder = Path(request.query_params["folder"])
    return APPLICATION.state.executor, function, str(folder / "begun"), str(folder / "ended"), *more


# ── ways to write it ──


async def generator(request: Request) -> Response:
    executor, *call = call_of(request)

    async def body() -> AsyncIterator[str]:
        async for line in executor.astream(*call):
            yield line

    return StreamingResponse(body())


async def generator_with_a_variable(request: Request) -> Response:
    executor, *call = call_of(request)

    async def body() -> AsyncIterator[str]:
        stream = executor.astream(*call)
        async for line in stream:
            yield line

    return StreamingResponse(body())


async def generator_around_a_generator(request: Request) -> Response:
    executor, *call = call_of(request)

    async def lines() -> AsyncIterator[str]:
        async for line in executor.astream(*call):
            yield line

    async def body() -> AsyncIterator[str]:
        async for line in lines():
            yield line.upper()

    return StreamingResponse(body())


async def generator_with_a_block(request: Request) -> Response:
    executor, *call = call_of(request)

    async def body() -> AsyncIterator[str]:
        async with executor.astream(*call) as stream:
            async for line in stream:
                yield line

    return StreamingResponse(body())


async def the_stream_itself(request: Request) -> Response:
    executor, *call = call_of(request)
    return StreamingResponse(executor.astream(*call))


WAYS = {
    each.__name__: each
    for each in (
        generator,
        generator_with_a_variable,
        generator_around_a_generator,
        generator_with_a_block,
        the_stream_itself,
    )
}


async def passed_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


fast = FastAPI()


@fast.get("/response")
async def response(request: FastRequest) -> StreamingResponse:
    executor, *call = call_of(request)

    async def body() -> AsyncIterator[str]:
        async for line in executor.astream(*call):
            yield line

    return StreamingResponse(body())


@fast.get("/endpoint", response_class=StreamingResponse)
async def endpoint(request: FastRequest) -> AsyncIterator[str]:
    executor, *call = call_of(request)
    async for line in executor.astream(*call):
        yield line


routes = [Route(f"/{name}", way) for name, way in WAYS.items()]
behind = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=passed_on)])
APPLICATION = Starlette(routes=[*routes, Mount("/behind", behind), Mount("/fastapi", fast)], lifespan=lifespan)
