"""Receive an upload: from the client's connection to the disk, with a deadline, and with nothing left if it fails.

Runs in: api. While some pieces are written in a thread, the next ones come: the loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
from queue import SimpleQueue

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

PIECE_BYTES = 256 << 10
PIECES_MAX = 4
"""Pieces of one upload in memory. A thread of its own for each piece would have to wait for a processor each time."""


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
    """The way of one body into its file: the loop takes pieces, and one thread of its own writes them."""

    def __init__(
        self, request: Request, store: FileStore, upload: Upload, body: FileBody, timeout_s: float, *, is_form: bool
    ) -> None:
        self._request = request
        self._store = store
        self._upload = upload
        self._body = body
        self._timeout_s = timeout_s
        self._is_form = is_form
        self._loop = asyncio.get_running_loop()
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0
        """Pieces that are not written."""
        self._written = asyncio.Event()
        self._came = 0

    async def run(self) -> None:
        """Raise Refused, HTTPException (408), ClientDisconnect."""
        try:
            writing = event_loops.in_thread(self._loop, self._write)
        except RuntimeError as error:
            raise Refused(f"no thread can be started: {error}", code="busy") from error
        writing.add_done_callback(lambda _: self._written.set())
        try:
            await self._receive(writing)
        except BaseException:
            self._pieces.put(None)
            await asyncio.wait({writing})  # the file is closed after this
            raise
        self._pieces.put(None)
        try:
            await writing
        except OSError as error:
            raise disk_full(error) from error
        self._note_size()

    async def _receive(self, writing: asyncio.Future[None]) -> None:
        """Pass the body on, piece by piece, until it ends or cannot be written."""
        stream, clock = self._request.stream(), self._loop.time
        start, waited = clock(), 0.0
        parts: list[bytes] = []
        size = 0
        while not writing.done():
            due = start + waited + self._timeout_s + self._came / BODY_BYTES_PER_S
            try:
                async with asyncio.timeout_at(due):
                    part = await anext(stream, None)
            except TimeoutError as error:
                raise HTTPException(408, self._slow, {"Connection": "close"}) from error
            size += len(part or b"")
            if part:
                parts.append(part)
            if part is None or size >= PIECE_BYTES:
                self._put(b"".join(parts))
                parts, size = [], 0
            if part is None:
                return
            began = clock()
            while self._waiting >= PIECES_MAX and not writing.done():
                self._written.clear()
                await self._written.wait()
            waited += clock() - began  # the disk's time is not the client's

    def _put(self, data: bytes) -> None:
        """Have a piece written. Raise Refused: too_large, files_full."""
        self._came += len(data)
        self._store.received_bytes += len(data)
        if not self._is_form:
            self._store.expect(self._upload, len(data))
        self._note_size()
        self._waiting += 1
        self._pieces.put(data)

    def _note_size(self) -> None:
        """Count what a form's file has come to: what comes has more than the file in it."""
        if self._is_form:
            self._store.expect(self._upload, self._upload.writer.size - self._upload.size)

    def _write(self) -> None:
        """Write what comes, until None does. Runs in a thread. Raise OSError, Refused."""
        while (data := self._pieces.get()) is not None:
            self._body.feed(data)
            event_loops.tell(self._loop, self._note_written)

    def _note_written(self) -> None:
        self._waiting -= 1
        self._written.set()

    @property
    def _slow(self) -> str:
        return f"The file did not arrive within {self._timeout_s:g} s, and a second more per {BODY_BYTES_PER_S} bytes"
