"""uvicorn's HTTP protocol with bounds that it lacks: number of connections, time and size of a request's header.

Runs in: supervisor, in its event loop. Without them, one client that connects and sends nothing takes every descriptor.

    connected ──header complete──► handled by uvicorn (its keep-alive timer) ──next request's first byte──┐
        └── header_timeout_s: 408 ◄───────────────────────────────────────────────────────────────────────┘

`connections` decides who gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import lru_cache, partial
from typing import Any, cast

from starlette.types import Message
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from killable.api.app import form_of
from killable.api.cli.server.head_with_body import HeadWithBody
from killable.api.cli.server.idle_connections import Admittance, Connections
from killable.api.cli.server.reading_turns import ConnectionReading, ReadingTurns
from killable.api.http.app_settings import HttpSettings
from killable.api.http.client_network import network_of
from killable.api.http.connection import CONNECTION, TOO_MANY
from killable.api.http.error_forms import Form, turned
from killable.api.http.operators_first import Precedence
from killable.api.http.problems import problem

HEADER_BYTES_MAX = 16 << 10
"""Twice what nginx and Apache accept of a line; httptools itself has no bound. What is in it is parsed in the event
loop: 64 KiB of cookies or preferences held it up for 10 to 50 ms.
"""
FIELDS_MAX = 100
"""Header fields of a request, as in Apache."""
PARAMETERS_MAX = 20
"""In the query of a request; no route knows as many. 15,000, which need no key, held up the event loop for 30 to 70 ms,
and ten such clients a kill for 18 s.
"""
LINGER_S = 1.0
"""Seconds for the client to read a refusal: closing at once would reset the connection if it is still sending."""
FRAMING_BYTES_MAX = 64 << 10
PIPELINED_BYTES_MAX = 256 << 10
"""What came behind a request that is not answered yet, while more than one waits; asyncio reads as much at once."""
PIPELINED_MAX = 16
"""Pipelined requests of one connection: uvicorn parses all that one read brings, 20 µs for each."""
TOO_MUCH = "Too many bytes of trailers or chunk extensions, or too many pipelined requests"
FRAMING_OF_A_BYTE = 16
"""Bytes of chunked coding allowed for each byte of body: a chunk of one byte has six."""


def protocol_of(
    settings: HttpSettings, bounds: Connections | None = None, precedence: Precedence | None = None
) -> type[asyncio.Protocol]:
    """Return the factory for `uvicorn.Config(http=...)`, called for every connection."""
    bounded = partial(
        BoundedProtocol,
        bounds=bounds or bounds_of(settings),
        turns=ReadingTurns(precedence or Precedence()),
        header_timeout_s=settings.header_timeout_s,
        silence_s=settings.send_timeout_s,
    )
    return cast("type[asyncio.Protocol]", bounded)


def bounds_of(settings: HttpSettings) -> Connections:
    """Return the bounds on the connections of one server."""
    return Connections(
        settings.connections_max, settings.connections_per_address_max, has_operators=bool(settings.keys)
    )


class BoundedProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    # Beside uvicorn's own in one dict they are more than Python shares the keys of: 1 KiB for each connection.
    __slots__ = (
        "_bounds", "_deadline", "_framing_bytes", "_header_bytes", "_header_timeout_s", "_in_header", "_is_refused",
        "_pipelined_bytes", "_reading", "_running", "_silence_s", "_turns", "is_reserved",
    )  # fmt: skip

    def __init__(
        self, *, bounds: Connections, turns: ReadingTurns | None, header_timeout_s: float, silence_s: float,
        **of_uvicorn: Any,
    ) -> None:  # fmt: skip
        """`turns` None: asyncio reads the connection as soon as it can."""
        super().__init__(**of_uvicorn)
        self._silence_s = silence_s
        self._bounds = bounds
        self._turns = turns
        self._reading: ConnectionReading | None = None
        self._running: RequestResponseCycle | None = None
        """The request that is being answered, or was last; uvicorn's `cycle` is the last one that came."""
        self.is_reserved = False
        """Whether only operators are answered on it."""
        self._header_timeout_s = header_timeout_s
        self._in_header = True
        self.url = b""  # until there is a request
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._framing_bytes = self._pipelined_bytes = 0

    # ── called by asyncio ──

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = HeadWithBody(transport, self.loop)
        self._bound_silence()
        address = self.client[0] if self.client else ""
        entry = self._bounds.came(self, address)
        if entry is Admittance.DROPPED:
            transport.abort()
            return
        if self._turns is not None:
            self._reading = self._turns.join(transport, network_of(address))
        if self._reading is not None:
            self.flow = FlowControl(cast(asyncio.Transport, self._reading))
        if entry is Admittance.REFUSED:
            self._refuse("too_many_connections", TOO_MANY)
        else:
            self.is_reserved = entry is Admittance.RESERVED
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.left(self)
        self._disarm()
        if self._reading is not None:
            self._reading.left()
        if self._running is not None:
            self.cycle = self._running  # uvicorn tells only `cycle` that its client has left
        super().connection_lost(exc)
        self._forget_request()
        self.pipeline.clear()
        self._running = self.cycle = cast(Any, None)
        cast(HeadWithBody, self.transport).left()

    def data_received(self, data: bytes) -> None:
        self._take(data)
        if self._reading is not None:
            self._reading.done(watches=bool(self.pipeline))

    def _take(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._in_header:
            self._header_bytes += len(data)
        else:
            self._framing_bytes += len(data)  # `on_body` subtracts the body
        self._pipelined_bytes = self._pipelined_bytes + len(data) if self.pipeline else 0
        super().data_received(data)
        if self.transport.is_closing() or self._is_refused:
            return
        if self._in_header and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse_header()
        elif self._framing_bytes > FRAMING_BYTES_MAX or self._pipelined_bytes > PIPELINED_BYTES_MAX:
            self._refuse("header_too_large", TOO_MUCH)
        elif self._deadline is None and (self._in_header or self._is_idle):
            # Idle too: line ends between requests, or a body that no one reads, stop uvicorn's own timer.
            self._arm()

    # ── called by the parser ──

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED_MAX:
            self._refuse("header_too_large", TOO_MUCH)
            raise ValueError("too many pipelined requests")  # the parser stops
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        self._in_header = True
        self._framing_bytes = 0

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if self.url.count(b"&") >= PARAMETERS_MAX:
            self._refuse("malformed", f"A request may have at most {PARAMETERS_MAX} parameters")
            raise ValueError("too many parameters")  # the parser stops
        if size > HEADER_BYTES_MAX or len(self.headers) > FIELDS_MAX:
            self._refuse_header()
            raise ValueError("the header is too large")  # the parser stops
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        if self._reading is not None:
            self.flow.pause_reading()  # its body, if it has one: until the application asks for it
        elif self.pipeline:
            self.flow.resume_reading()  # uvicorn paused it, and whoever reads the answer could leave unnoticed
        self._in_header = False
        self._header_bytes = 0
        self._disarm()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_header:  # a trailer is dropped: nothing reads it
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = max(0, self._framing_bytes - FRAMING_OF_A_BYTE * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._reading is not None and not self.pipeline:
            self.flow.resume_reading()  # so that it is noticed when its client leaves
        if not self._is_idle:
            self._bounds.works(self)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]  # which uvicorn begins now
        super().on_response_complete()
        if not self.pipeline and self._is_idle:
            self._bounds.rests(self)
            if self.scope is self.cycle.scope:  # else the next request has begun
                self._forget_request()

    def send_400_response(self, msg: str) -> None:
        if not self._is_refused:
            self._refuse("malformed", "The request is not valid HTTP/1.1")

    # ── called by the bounds, and by the application ──

    def close_for_another(self) -> None:
        """Close the connection, which rests: the next one needs its place."""
        self._disarm()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # a client that reads nothing would hold it
        else:
            self.transport.close()

    def note_key(self) -> None:
        """Take note that its request has a valid key."""
        self._bounds.has_key(self)

    def note_refused(self) -> None:
        """Let it rest until its request is answered: that is refused, and waits only to slow its client down."""
        self._bounds.rests(self)

    @property
    def has_left(self) -> bool:
        """Whether its client has left."""
        return self.transport.is_closing()

    # ── internal ──

    def _bound_silence(self) -> None:
        """Let the kernel drop the connection to a peer that is gone: a ping would be retransmitted for 15 minutes.

        tcp(7), TCP_USER_TIMEOUT: for how long data may go unacknowledged.
        """
        sock = self.transport.get_extra_info("socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._silence_s * 1000))

    def _forget_request(self) -> None:
        """Drop what is known of the last request. It leads back to this connection, which only the garbage collector
        would find then: its passes over a crowd that comes and goes held up the event loop for 0.1 s.
        """
        self.scope = cast(Any, None)
        self.headers = []
        if self.cycle is not None and self._is_idle:
            self.cycle.scope = cast(Any, None)

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self._header_timeout_s, self._on_deadline)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if not self._is_idle:
            self._arm()  # the start of the next request while an answer is still being sent
        elif self._in_header:
            self._refuse(
                "slow_request", f"The header of the request was not complete within {self._header_timeout_s:g} s"
            )
        else:
            self.transport.close()

    def _refuse_header(self) -> None:
        bounds = f"{HEADER_BYTES_MAX} bytes and {FIELDS_MAX} fields"
        self._refuse("header_too_large", f"The header of a request may have {bounds}")

    def _refuse(self, code: str, detail: str) -> None:
        """Answer without the application, and close after the client had time to read the answer.

        Where the path is known by then, OpenAI's and Anthropic's clients get errors of theirs.
        """
        self._is_refused = True
        self._disarm()
        self._unset_keepalive_if_required()
        if not self._is_idle:
            self.transport.close()  # a refusal would end up in the middle of that answer
            return
        path = self.url.partition(b"?")[0].decode("latin-1") if self._in_header else ""
        status_line, rest = _refusal(code, detail, form_of(path))
        headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(b"".join([status_line, *headers, rest]))
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has left in this turn of the loop
                self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


@lru_cache(maxsize=16)
def _refusal(code: str, detail: str, form: Form | None) -> tuple[bytes, bytes]:
    """Return the first line of an answer, and its other headers with its body. Thousands may get it in a second."""
    answer = problem(code, detail, headers={"Connection": "close"})
    start: Message = {"status": answer.status_code, "headers": answer.raw_headers}
    end: Message = {"body": bytes(answer.body)}
    if form is not None:
        start, end = turned(start, end["body"], form)
    headers = b"".join(b"%b: %b\r\n" % header for header in start["headers"])
    return STATUS_LINE[start["status"]], headers + b"\r\n" + end["body"]
