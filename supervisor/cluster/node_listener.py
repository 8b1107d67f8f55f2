"""Where a node host can be called: a port of its machine, on which heads prove that they know its secret.

Runs in: supervisor, on a node.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

from killable.supervisor.cluster import node_secret
from killable.supervisor.cluster.framed_messages import FramedMessages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.linux import node_sockets

PROVE_S = 5.0
"""How long whoever connects may take to prove that it is a head."""
STRANGERS_MAX = 128
"""Connections at once of which that is not proven. With one more, the oldest is hung up on, of the address that has the
most of them: a head needs a round trip, and keeps its place that long among all who say nothing. More than the event
loop accepts in one turn.
"""

logger = logging.getLogger("killable.node")

Call = Callable[[str, bytes], Awaitable[bytes]]


class NodeListener:
    """Listens until its process ends."""

    def __init__(self, call: Call, *, tls: ssl.SSLContext | None = None) -> None:
        """`call` is `NodeHost.call`."""
        self.secret = node_secret.new_secret()
        self.call = call
        self._strangers: dict[_Caller, str] = {}
        """Who has not proven to be a head, the oldest first, with its address."""
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> int:
        """Return the port of this address of the machine. Raise OSError."""
        sock = node_sockets.listen(host)
        handshake_s = None if self._tls is None else PROVE_S
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Caller(self).frames, sock=sock, ssl=self._tls, ssl_handshake_timeout=handshake_s
        )
        port: int = sock.getsockname()[1]
        return port

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    @property
    def strangers(self) -> int:
        return len(self._strangers)

    def add(self, stranger: _Caller) -> None:
        """Take a new connection in, in the place of another one when there are too many."""
        self._strangers[stranger] = stranger.frames.address
        if self.strangers > STRANGERS_MAX:
            ((most, _),) = Counter(self._strangers.values()).most_common(1)
            next(each for each, address in self._strangers.items() if address == most).refuse()

    def remove(self, stranger: _Caller) -> None:
        self._strangers.pop(stranger, None)


class _Caller:
    """One connection."""

    def __init__(self, listener: NodeListener) -> None:
        self._listener = listener
        self._proof: node_secret.HostsProof | None = node_secret.HostsProof(listener.secret)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.frames = FramedMessages(
            self._on_frame, self._on_lost, on_made=self._on_made, frame_bytes_max=node_secret.PROOF_BYTES_MAX
        )

    def _on_made(self) -> None:
        assert self._proof is not None
        self._timer = asyncio.get_running_loop().call_later(PROVE_S, self.refuse)
        self._listener.add(self)
        self.frames.send({}, [self._proof.nonce])

    def refuse(self) -> None:
        """Hang up on who has not proven to be a head."""
        self._is_no_stranger()
        self.frames.hang_up()

    def _on_frame(self, header: Header, blobs: list[bytes]) -> None:
        if self._proof is not None:
            proof = self._proof.answer(blobs)
            self._proof = None
            self._is_no_stranger()
            self.frames.allow_large()
            self.frames.send({}, [proof])
            return
        (message,) = blobs
        task = asyncio.ensure_future(self._answer(header["n"], header["method"], message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_no_stranger(self) -> None:
        self._listener.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    async def _answer(self, number: int, method: str, message: bytes) -> None:
        try:
            answer = await self._listener.call(method, message)
        except Exception:  # a bug in killable: the head asks again
            logger.exception("node_call_failed", extra={"detail": method})
            self.frames.hang_up()
            return
        self.frames.send({"n": number}, [answer])

    def _on_lost(self, why: str) -> None:
        self._is_no_stranger()
