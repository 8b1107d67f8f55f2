"""A keep-alive connection to a server, with the minimum of HTTP/1.1, so that no client library is measured.

Runs in: a benchmark.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, Self

import httptools

READ_BYTES = 1 << 20


class Body:
    """The body of one answer, without its head and the sizes of its chunks, which may stand within an event."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def feed(self, received: bytes) -> bytes:
        """Return what these bytes of the answer bring of its body. Raise ValueError for what is no HTTP."""
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserError as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        parts, self._parts = self._parts, []
        return b"".join(parts)


class RawConnection:
    """One keep-alive connection with the minimum of HTTP/1.1, so that no client library is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str = "") -> None:
        self.reader = reader
        self.writer = writer
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""

    @classmethod
    async def open(cls, port: int, key: str = "") -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=READ_BYTES), key)

    @classmethod
    async def open_unix(cls, path: str) -> Self:
        return cls(*await asyncio.open_unix_connection(path, limit=READ_BYTES))

    async def request(self, method: str, path: str, body: Any = None, *, prefer: str = "") -> dict[str, Any]:
        """Return the JSON of a 2xx response. Raise RuntimeError for any other, EOFError for none."""
        self.send(method, path, body, prefer=prefer)
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise EOFError(f"{method} {path}: the server closed the connection instead of an answer") from None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        content = await self.reader.readexactly(length)
        if head[9:10] != b"2":
            raise RuntimeError(f"{method} {path}: {head!r} {content!r}")
        members: dict[str, Any] = json.loads(content)
        return members

    def send(self, method: str, path: str, body: Any = None, *, prefer: str = "") -> None:
        content = b"" if body is None else json.dumps(body).encode()
        others = ("Content-Type: application/json\r\n" if content else "") + (f"Prefer: {prefer}\r\n" if prefer else "")
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self._authorization}{others}".encode()
        self.writer.write(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)

    async def submit(self, type: str, **input: Any) -> str:
        """Submit a job and return its id."""
        accepted = await self.request("POST", "/v1/jobs", {"type": type, "input": input})
        return str(accepted["job_id"])

    def open_stream(self, job_id: str) -> None:
        """Request a job's events. From then on only `line_with` and `reader` can be used."""
        self.send("GET", f"/v1/jobs/{job_id}/stream")

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the body of the stream as it comes, until the server closes the connection."""
        body = Body()
        while received := await self.reader.read(READ_BYTES):
            yield body.feed(received)

    async def line_with(self, part: bytes) -> bytes:
        """Read up to a line that contains `part`, and return it. Raise EOFError."""
        while line := await self.reader.readline():
            if part in line:
                return line
        raise EOFError(f"the stream ended before {part!r}")

    async def close(self) -> None:
        self.writer.transport.abort()
