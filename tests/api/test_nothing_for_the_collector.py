"""What ends leaves no reference cycle: a pass of the garbage collector holds up every kill, and should find nothing."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from api_server import StartServer
from support.engines import ENGINE

TIMES = 8
OURS = ("killable.", "uvicorn.", "fastapi.", "pydantic.", "asyncio.selector_events.", "socket.", "builtins.type")

pytestmark = pytest.mark.skipif(ENGINE == "cluster", reason="the nodes' ends of connections are in this process, too")


@contextmanager
def found_by_the_collector() -> Iterator[Callable[[], Counter[str]]]:
    """Collect nothing; yield what returns the types of the objects that only the collector finds, with their number.

    Not what hangs on the circles of anyio: each task that its task group cancels leaves an exception, whose traceback
    has the frame that has the exception. These three are new when they are left: the next pass finds them.
    """

    def found() -> Counter[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        for each in gc.garbage:
            if isinstance(each, asyncio.CancelledError) and is_left_by_anyio(each):
                each.__traceback__ = None
        gc.garbage.clear()
        gc.collect()
        gc.set_debug(0)
        names = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
        gc.garbage.clear()
        return names

    gc.collect()
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()


def is_left_by_anyio(error: BaseException) -> bool:
    """Return whether the callback of an anyio task group has this exception and stands in its traceback."""
    return any(
        frame.f_code.co_name == "task_done" and frame.f_globals["__name__"].startswith("anyio.")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def leave(port: int) -> None:
    """Connect and leave: without a word, within a header, behind a request."""
    for said in (b"", b"GET /v1/jobs HTTP/1.1\r\nX-Slow: x", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(said)
            if said.endswith(b"\r\n\r\n"):
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def asked(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse().read()
        return json.loads(answer) if answer.startswith(b"{") else answer
    finally:
        connection.close()


def run(port: int) -> None:
    """Have a job that is read behind its end, one that is cancelled, and one that is refused."""
    job = asked(port, "POST", "/v1/jobs", {"type": "count", "input": {"n": 2}})
    while not asked(port, "GET", f"/v1/jobs/{job['job_id']}")["ended_at"]:
        pass
    assert b"event: completed" in asked(port, "GET", f"/v1/jobs/{job['job_id']}/stream")
    job = asked(port, "POST", "/v1/jobs", {"type": "spin"})
    assert asked(port, "DELETE", f"/v1/jobs/{job['job_id']}?grace_s=0")["status"] == "cancelled"
    assert asked(port, "POST", "/v1/jobs", {"type": "none"})["code"] == "unknown_job_type"


def follow(port: int) -> None:
    """Read a job as it comes: one stream is left, one is read to the end."""
    job = asked(port, "POST", "/v1/jobs", {"type": "spin"})
    streams = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2)]
    answers = []
    for each in streams:
        each.request("GET", f"/v1/jobs/{job['job_id']}/stream")
        answers.append(each.getresponse())
        while b"event: started" not in answers[-1].readline():
            pass
    answers[0].close()
    streams[0].close()
    assert asked(port, "DELETE", f"/v1/jobs/{job['job_id']}?grace_s=0")["status"] == "cancelled"
    assert b"event: cancelled" in answers[1].read()
    streams[1].close()


@pytest.mark.parametrize("client", [leave, run, follow])
async def test_what_ends_is_gone_without_the_garbage_collector(
    client: Callable[[int], None], start_server: StartServer
) -> None:
    async with start_server(workers=2) as server:
        await asyncio.to_thread(client, server.port)  # what the first one imports and remembers
        with found_by_the_collector() as found:
            for _ in range(TIMES):
                await asyncio.to_thread(client, server.port)
            while server.connections or any(each.state != "idle" for each in await server.supervisor.workers()):
                await asyncio.sleep(0)
            each_time = {name: n for name, n in found().items() if n >= TIMES and name.startswith(OURS)}
    assert each_time == {}
