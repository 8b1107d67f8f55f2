"""Receive an upload: from the client's connection to the disk, with a deadline, and with nothing left if it fails.

Runs in: api. While one piece is written in a thread, the next one comes: the loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request

from killable.api.http.bodies import BODY_BYTES_PER_S
from killable.api.http.file_bodies import (
    MULTIPART,
    ROOM_BYTES,
    UNNAMED,
    FileBody,
    MultipartBody,
    PlainBody,
    check_name,
    media_type,
)
from killable.supervisor import event_loops
from killable.supervisor.files.file_store import FileStore, Upload, disk_full
from killable.supervisor.records import FileRecord
from killable.workers.errors import Refused

FEED_BYTES = 256 << 10
"""A piece: two of them are in memory for each upload. A hop to a thread takes some 60 µs."""


async def receive(request: Request, store: FileStore, tenant: str, name: str, timeout_s: float) -> FileRecord:
    """Receive the file in a request's body. `name`: what it is to be called; empty: the form says it.

    `timeout_s`: for the first bytes; each BODY_BYTES_PER_S more bytes give a second more. Raise Refused, and
    HTTPException for a body that is too slow.
    """
    content_type = request.headers.get("content-type", "")
    is_form = content_type.partition(";")[0].strip().lower() == MULTIPART
    if name:
        check_name(name, "query")
    upload = await store.begin(tenant, _announced(request, store, is_form=is_form))
    try:
        body: FileBody = (
            MultipartBody(upload.writer, content_type, name)
            if is_form
            else PlainBody(upload.writer, name or UNNAMED, content_type)
        )
        await _Receiving(request, store, upload, body, timeout_s, is_form=is_form).run()
        return await store.finish(upload, body.end(), media_type(body.content_type))
    finally:
        await asyncio.shield(store.abort(upload))


def _announced(request: Request, store: FileStore, *, is_form: bool) -> int | None:
    """Return the size of the file, as far as it is known before it comes. Raise Refused: too_large."""
    length = request.headers.get("content-length")
    if length is None:
        return None
    if not is_form:
        return int(length)
    if int(length) > store.file_bytes_max + ROOM_BYTES:
        raise store.too_large()
    return min(int(length), store.file_bytes_max)


class _Receiving:
    """The way of one body into its file."""

    def __init__(
        self, request: Request, store: FileStore, upload: Upload, body: FileBody, timeout_s: float, *, is_form: bool
    ) -> None:
        self._request = request
        self._store = store
        self._upload = upload
        self._body = body
        self._timeout_s = timeout_s
        self._is_form = is_form
        self._writing: asyncio.Future[None] | None = None
        self._came = 0

    async def run(self) -> None:
        """Raise Refused, HTTPException (408), ClientDisconnect."""
        parts: list[bytes] = []
        size = 0
        stream, clock = self._request.stream(), asyncio.get_running_loop().time
        start, waited = clock(), 0.0
        try:
            while True:
                due = start + waited + self._timeout_s + self._came / BODY_BYTES_PER_S
                try:
                    async with asyncio.timeout_at(due):
                        part = await anext(stream, None)
                except TimeoutError as error:
                    raise HTTPException(408, self._slow, {"Connection": "close"}) from error
                if part is None:
                    break
                parts.append(part)
                size += len(part)
                if size >= FEED_BYTES:
                    began = clock()
                    await self._write(parts)
                    waited += clock() - began  # the disk's time is not the client's
                    parts, size = [], 0
            await self._write(parts)
            await self._written()
        except BaseException:
            if self._writing is not None:  # the file is closed after this
                await asyncio.wait({self._writing})
            raise

    async def _write(self, parts: list[bytes]) -> None:
        """Begin to write a piece when the one before is written."""
        await self._written()
        data = b"".join(parts)
        self._came += len(data)
        self._store.received_bytes += len(data)
        if not self._is_form:
            self._store.expect(self._upload, len(data))
        loop = asyncio.get_running_loop()
        try:
            self._writing = event_loops.in_thread(loop, partial(self._body.feed, data))
        except RuntimeError as error:
            raise Refused(f"no thread can be started: {error}", code="busy") from error

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            await writing
        except OSError as error:
            raise disk_full(error) from error
        except asyncio.CancelledError:
            self._writing = writing
            raise
        if self._is_form:
            self._store.expect(self._upload, self._upload.writer.size - self._upload.size)

    @property
    def _slow(self) -> str:
        return f"The file did not arrive within {self._timeout_s:g} s, and a second more per {BODY_BYTES_PER_S} bytes"
