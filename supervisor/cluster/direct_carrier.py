"""A carrier that calls each node over a connection of its own, to where the launcher says that its host listens.

Runs in: supervisor, on the head.

A call costs a tenth of the processor time of one through Ray, and no process between. What is lost with a connection
proves nothing of the node: the next call connects anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from itertools import count

from killable.supervisor.cluster import node_secret
from killable.supervisor.cluster.carrier import CarrierError, HostGone, HostPlace, Launcher, Machine, Request
from killable.supervisor.cluster.framed_messages import FramedMessages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.linux import node_sockets

CONNECT_S = 2.0
"""How long a connection may take, with its proofs. What was lost on the way is not waited for: the next call tries
again.
"""


class DirectCarrier:
    """Implements `Carrier`."""

    def __init__(self, launcher: Launcher, *, tls: ssl.SSLContext | None = None) -> None:
        self._launcher = launcher
        self._tls = tls
        self._places: dict[str, HostPlace] = {}
        self._ways: dict[str, _Way] = {}

    @property
    def trouble(self) -> str:
        return self._launcher.trouble

    async def open(self) -> None:
        await self._launcher.open()

    async def members(self) -> Sequence[Machine]:
        found = await self._launcher.members()
        return [
            machine._replace(trouble=place.trouble) if (place := self._places.get(machine.name)) else machine
            for machine in found
        ]

    async def start(self, node: str) -> None:
        place = await self._launcher.start(node)
        if place != self._places.get(node):
            self._places[node] = place
            if node in self._ways:
                self._ways.pop(node).end("another node host is there")

    def forget(self, node: str) -> None:
        self._places.pop(node, None)
        if way := self._ways.pop(node, None):
            way.end("its machine is gone")

    async def request(self, wanted: Request) -> None:
        await self._launcher.request(wanted)

    async def call(self, node: str, method: str, message: bytes) -> bytes:
        way = self._ways.get(node)
        if way is None or way.is_over:
            place = self._places.get(node)
            if place is None:
                raise HostGone("it is not started")
            way = self._ways[node] = _Way(place, self._tls)
        if not way.connected.done():
            await asyncio.shield(way.connected)  # others wait for it, too, and have more time
        return await way.ask(method, message)

    async def close(self) -> None:
        for way in self._ways.values():
            way.end("it is not needed any more")
            way.connected.cancel()
        await self._launcher.close()


class _Way:
    """One connection."""

    def __init__(self, place: HostPlace, tls: ssl.SSLContext | None) -> None:
        self._place = place
        self._tls = tls
        self._frames = FramedMessages(self._on_frame, self.end, frame_bytes_max=node_secret.PROOF_BYTES_MAX)
        self._proof = node_secret.HeadsProof(place.secret)
        self._proven: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = count(1)
        self._why = ""
        self.is_over = False
        self.connected = asyncio.ensure_future(self._connect())
        self.connected.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _connect(self) -> None:
        """Raise CarrierError: nothing is there that can be called; HostGone: it has ended."""
        try:
            async with asyncio.timeout(CONNECT_S):
                sock = await node_sockets.connect(self._place.host, self._place.port)
                name = None if self._tls is None else self._place.host
                await asyncio.get_running_loop().create_connection(
                    lambda: self._frames, sock=sock, ssl=self._tls, server_hostname=name
                )
                await self._proven
        except ConnectionRefusedError as error:
            self.end("its process has ended")
            raise HostGone(self._why) from error
        except (OSError, TimeoutError) as error:
            self.end(f"no connection: {error}" if str(error) else "no connection in time")
            raise CarrierError(self._why) from error

    def _on_frame(self, header: Header, blobs: list[bytes]) -> None:
        if not self._proven.done():
            answer = self._proof.answer(blobs)
            if answer:
                self._frames.send({}, answer)
            else:
                self._frames.allow_large()
                self._proven.set_result(None)
            return
        answered = self._waiting.pop(header["n"], None)
        if answered is not None and not answered.done():
            (data,) = blobs
            answered.set_result(data)

    async def ask(self, method: str, message: bytes) -> bytes:
        """Return the answer. Raise CarrierError."""
        if self.is_over:
            raise CarrierError(self._why)
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._frames.send({"n": number, "method": method}, [message])
        try:
            answer: bytes = await answered
        finally:
            self._waiting.pop(number, None)
        return answer

    def end(self, why: str) -> None:
        """Hang up, and tell all who wait."""
        if self.is_over:
            return
        self.is_over, self._why = True, why or "its connection has ended"
        self._frames.hang_up()
        if not self._proven.done():
            self._proven.set_exception(HostGone(self._why))
            self._proven.exception()  # whoever connects may have given up
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(CarrierError(self._why))
