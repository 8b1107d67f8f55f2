"""A launcher whose work is done in a process of its own, the driver: what ends that does not end the server.

Runs in: supervisor, on the head.

Ray aborts the process that uses it when it cannot go on. Then another one is started, which finds the node hosts of
the first. What runs does not notice: the head calls its nodes itself.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

from killable.supervisor import event_loops
from killable.supervisor.cluster.carrier import (
    CarrierError,
    ClusterReplaced,
    ClusterUnreachable,
    HostPlace,
    Machine,
    Request,
)
from killable.supervisor.cluster.framed_messages import LOGGED, FramedMessages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.linux import driver_launch
from killable.supervisor.models import StartRefused

DRIVER = "killable.supervisor.cluster.driver_process"
OPEN_S = 90.0
"""How long the driver may take to connect. It gives up before."""
CLOSE_S = 10.0
"""How long it may take to leave the cluster."""
END_S = 0.5
"""How long it may take to end when it has hung up; then it is killed."""
REAP_S = 5.0
"""How long the end of a killed one is waited for."""
AGAIN_S = 1.0
"""How long to wait until one that could not connect is followed by another."""
SILENT_S = 2.5
"""After so long without an answer to a ping the driver is killed: a quarter of the default lease."""
_FAILURES: dict[str, type[CarrierError]] = {"replaced": ClusterReplaced}
_REFUSALS = {"unreachable": ClusterUnreachable, "refused": StartRefused}

logger = logging.getLogger("killable.cluster")


class DriverLauncher:
    """Implements `Launcher`."""

    def __init__(self, launcher: str, arguments: tuple[Any, ...], *, silent_s: float = SILENT_S) -> None:
        """`launcher` is the class that does the work, as `module:class`, with its arguments."""
        self._launcher = launcher
        self._arguments = arguments
        self._silent_s = silent_s
        self._driver = _Driver()
        self._closing = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._why = ""
        """How the last driver has ended, and why there is no other yet; empty: there is one."""

    @property
    def trouble(self) -> str:
        if not self._why and not self._driver.is_over:
            return ""
        how = f" ({self._why})" if self._why else ""
        return f"the driver of the cluster has ended{how}, and another one is started"

    @property
    def pid(self) -> int | None:
        """The process of the driver; None: there is none."""
        return self._driver.pid

    async def open(self) -> None:
        try:
            await self._begin()
        except (CarrierError, OSError) as error:
            raise StartRefused(f"the driver of the cluster cannot be started: {error}") from error
        self._keeping = asyncio.ensure_future(self._keep())

    async def _begin(self) -> None:
        """Have a driver that is connected. Raise StartRefused, CarrierError, OSError."""
        self._driver = _Driver()
        try:
            await self._driver.start(self._launcher)
            async with asyncio.timeout(OPEN_S):
                await self._driver.ask({"ask": "open"}, [pickle.dumps(self._arguments)])
        except BaseException:
            self._driver.end("it is not needed")
            raise

    async def _keep(self) -> None:
        """Start another driver whenever one has ended."""
        while not self._closing.is_set():
            self._why = await self._driver.until_over(self._silent_s)
            while not self._closing.is_set():
                logger.warning("driver_ended", extra={"detail": self._why})
                try:
                    await self._begin()
                    await self._driver.ask({"ask": "members"})  # it has to know where it may start a node host
                except (StartRefused, CarrierError, OSError) as error:  # a TimeoutError is an OSError
                    self._why = str(error) or "it does not connect"
                    await self._driver.reap()
                    await event_loops.wait_within(self._closing, AGAIN_S)
                    continue
                self._why = ""
                logger.info("driver_started", extra={"pid": self.pid})
                break

    async def _ask(self, header: Header, blobs: Sequence[bytes] = ()) -> tuple[Header, list[bytes]]:
        if self._why:  # the next one is not connected yet
            raise CarrierError(self.trouble)
        try:
            return await self._driver.ask(header, blobs)
        except StartRefused as error:  # only an `open` is refused
            raise CarrierError(str(error)) from error

    async def members(self) -> Sequence[Machine]:
        try:
            answer, _ = await self._ask({"ask": "members"})
        except ClusterReplaced as error:
            self._driver.end(str(error))  # the next one connects to what is there now
            raise
        try:
            return [Machine(**each) for each in answer["members"]]
        except (KeyError, TypeError) as error:
            raise self._broken(error) from error

    async def start(self, node: str) -> HostPlace:
        answer, blobs = await self._ask({"ask": "start", "node": node})
        try:
            (secret,) = blobs
            return HostPlace(str(answer["host"]), int(answer["port"]), secret, str(answer["trouble"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(error) from error

    async def request(self, wanted: Request) -> None:
        await self._ask({"ask": "request", "wanted": [[dict(labels), number] for labels, number in wanted]})

    def _broken(self, error: Exception) -> CarrierError:
        """End a driver that has answered something else; another one takes its place."""
        why = f"what it answers is no answer: {error!r}"
        self._driver.end(why)
        return CarrierError(why)

    async def close(self) -> None:
        self._closing.set()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if not self._driver.is_over:  # else it was told already why, and by whom
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._driver.ask({"ask": "close"})
            except (CarrierError, StartRefused, TimeoutError) as error:
                logger.warning("driver_not_closed", extra={"detail": str(error)})
        self._driver.end("it is not needed any more")
        await self._driver.reap()


class _Driver:
    """One process."""

    def __init__(self) -> None:
        self._process: driver_launch.Launched | None = None
        self._frames = FramedMessages(self._on_frame, self.end)
        self._waiting: dict[int, asyncio.Future[tuple[Header, list[bytes]]]] = {}
        self._numbers = count(1)
        self._over = asyncio.Event()
        self._why = ""

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._over.is_set() else self._process.pid

    async def start(self, launcher: str) -> None:
        """Raise OSError."""
        self._process, sock = driver_launch.start(DRIVER, launcher)
        await asyncio.get_running_loop().create_connection(lambda: self._frames, sock=sock)

    async def ask(self, header: Header, blobs: Sequence[bytes] = ()) -> tuple[Header, list[bytes]]:
        """Return its answer. Raise CarrierError and StartRefused."""
        if self._over.is_set():
            raise CarrierError(f"the driver of the cluster has ended: {self._why}")
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._frames.send({**header, "n": number}, blobs)
        try:
            answer, data = await answered
        finally:
            self._waiting.pop(number, None)
        if "failure" in answer:
            if refusal := _REFUSALS.get(answer["failure"]):
                raise refusal(answer["why"])
            raise _FAILURES.get(answer["failure"], CarrierError)(answer["why"])
        return answer, data

    def _on_frame(self, header: Header, blobs: list[bytes]) -> None:
        if not isinstance(header["n"], int) or ("failure" in header and not isinstance(header["why"], str)):
            raise ValueError("an answer to nothing")
        if header["n"] == LOGGED:
            _log(header["level"], header["event"], header["detail"])
        answered = self._waiting.pop(header["n"], None)
        if answered is not None and not answered.done():
            answered.set_result((header, blobs))

    def end(self, why: str) -> None:
        """Hang up, and tell all who wait. It ends by itself, or is killed in a moment."""
        if self._over.is_set():
            return
        self._why = why
        self._over.set()
        self._frames.hang_up()
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(CarrierError(f"the driver of the cluster has ended: {why or 'it has hung up'}"))

    async def reap(self) -> str:
        """Return how the process has ended, and why; it is killed if it has not."""
        if self._process is None:
            return self._why
        loop, process = asyncio.get_running_loop(), self._process
        try:
            async with asyncio.timeout(REAP_S):
                ended = await event_loops.in_thread(
                    loop, partial(process.end, 0.0 if self._why else END_S), is_waited_for=False
                )
        except TimeoutError:
            ended = "SIGKILL does not end it"
        return f"{ended}: {self._why}" if self._why else ended

    async def until_over(self, silent_s: float) -> str:
        """Return how it has ended. One that does not answer for so many seconds is killed."""
        while not await event_loops.wait_within(self._over, silent_s / 2):
            try:
                async with asyncio.timeout(silent_s):
                    await self.ask({"ask": "ping"})
            except TimeoutError:
                self.end(f"it has not answered for {silent_s:g} s")
            except CarrierError:
                break
        return await self.reap()


def _log(level: object, event: object, detail: object) -> None:
    """Log what the driver has logged. Raise ValueError: it is no record."""
    if not isinstance(level, int) or not isinstance(event, str) or not isinstance(detail, str):
        raise ValueError("a record of nothing")
    logger.log(level, event, extra={"detail": detail})
