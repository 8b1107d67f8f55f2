"""The process of the driver: has a launcher, and does what the head asks of it, any number of things at once.

Runs in: driver. `python -m killable.supervisor.cluster.driver_process DESCRIPTOR OWNER MODULE:CLASS`. The first frame
has the arguments of the class, pickled. Every other one asks; its answer has the same number. The end of the socket is
the end of this process.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pickle
import sys
import traceback
from collections.abc import Awaitable, Callable

from killable.supervisor.cluster.carrier import CarrierError, ClusterReplaced, ClusterUnreachable, Launcher
from killable.supervisor.cluster.framed_messages import LOGGED, FramedMessages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.linux import driver_launch, process_exit
from killable.supervisor.models import StartRefused

CALL_S = 150.0
"""How long a call is waited for: longer than any call of a head. What is not answered does not pile up."""
FAILURES: dict[str, type[Exception]] = {
    "unreachable": ClusterUnreachable,
    "refused": StartRefused,
    "replaced": ClusterReplaced,
    "failed": CarrierError,
}
"""What a launcher raises, by the name that it has in an answer; more special ones first."""
Answer = tuple[Header, list[bytes]]

logger = logging.getLogger("killable.cluster")


class HeadsLog(logging.Handler):
    """Has the head log what is logged here, in any thread, in its own form."""

    def __init__(self, frames: FramedMessages, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._frames = frames
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        detail = str(getattr(record, "detail", ""))
        if record.exc_info:
            detail += "".join(traceback.format_exception(record.exc_info[1]))
        told = {"n": LOGGED, "level": record.levelno, "event": record.getMessage(), "detail": detail}
        self._loop.call_soon_threadsafe(self._frames.send, told)


class DriverProcess:
    """Answers the head."""

    def __init__(self, launcher: str) -> None:
        """`launcher` is `module:class`."""
        self._name = launcher
        self._launcher: Launcher | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()
        self.frames = FramedMessages(self._on_frame, lambda _: self.over.set())
        self._asks: dict[str, Callable[[Header, list[bytes]], Awaitable[Answer]]] = {
            "ping": self._ping, "open": self._open, "members": self._members, "start": self._start,
            "request": self._request, "close": self._close,
        }  # fmt: skip

    def _on_frame(self, header: Header, blobs: list[bytes]) -> None:
        task = asyncio.ensure_future(self._answer(header, blobs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, header: Header, blobs: list[bytes]) -> None:
        try:
            async with asyncio.timeout(CALL_S):
                answer, data = await self._asks[header["ask"]](header, blobs)
        except Exception as error:
            name = next((name for name, kind in FAILURES.items() if isinstance(error, kind)), "failed")
            if not isinstance(error, (CarrierError, StartRefused, TimeoutError)):
                logger.exception("driver_failed")
            answer, data = {"failure": name, "why": str(error) or type(error).__name__}, []
        self.frames.send({**answer, "n": header["n"]}, data)

    @property
    def _way(self) -> Launcher:
        if self._launcher is None:
            raise CarrierError("it is not open")
        return self._launcher

    async def _ping(self, header: Header, blobs: list[bytes]) -> Answer:
        return {}, []

    async def _open(self, header: Header, blobs: list[bytes]) -> Answer:
        module, _, name = self._name.partition(":")
        self._launcher = getattr(importlib.import_module(module), name)(*pickle.loads(blobs[0]))
        await self._way.open()
        return {}, []

    async def _members(self, header: Header, blobs: list[bytes]) -> Answer:
        return {"members": [each._asdict() for each in await self._way.members()]}, []

    async def _start(self, header: Header, blobs: list[bytes]) -> Answer:
        place = await self._way.start(header["node"])
        return {"host": place.host, "port": place.port, "trouble": place.trouble}, [place.secret]

    async def _request(self, header: Header, blobs: list[bytes]) -> Answer:
        await self._way.request([(labels, number) for labels, number in header["wanted"]])
        return {}, []

    async def _close(self, header: Header, blobs: list[bytes]) -> Answer:
        await self._way.close()
        return {}, []


async def main(descriptor: int, owner: int, launcher: str) -> None:
    """Serve until the head hangs up."""
    sock = driver_launch.join_owner(descriptor, owner)
    process = DriverProcess(launcher)
    ours = logging.getLogger("killable")
    ours.addHandler(HeadsLog(process.frames, asyncio.get_running_loop()))
    ours.setLevel(logging.INFO)
    ours.propagate = False
    await asyncio.get_running_loop().create_connection(lambda: process.frames, sock=sock)
    await process.over.wait()
    process_exit.leave()  # what Ray does at an exit may wait for somebody


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
