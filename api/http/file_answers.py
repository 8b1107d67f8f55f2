"""The content of a file as an answer: in pieces, with ranges, an ETag, and a name to save it under.

Runs in: api.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from killable.api.http.methods import IS_HEAD
from killable.supervisor import event_loops
from killable.supervisor.linux.saved_files import open_regular
from killable.workers.errors import Refused

PIECE_BYTES = 256 << 10

logger = logging.getLogger("killable.server")


class FileAnswer(FileResponse):
    """The content of an open file, which it closes."""

    chunk_size = PIECE_BYTES

    def __init__(
        self, descriptor: int, found: os.stat_result, *, name: str, content_type: str, send_timeout_s: float,
        note_sent: Callable[[int], None], of: Mapping[str, str],
    ) -> None:  # fmt: skip
        """`of`: whose it is, for the log: `job_id` or `file_id`."""
        # By the descriptor: whatever comes to be at the path, this is the file that was looked at.
        super().__init__(
            f"/proc/self/fd/{descriptor}",
            media_type=content_type or "application/octet-stream",
            filename=name,
            stat_result=found,
            headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"},
        )
        self._descriptor = descriptor
        self._send_timeout_s = send_timeout_s
        self._note_sent = note_sent
        self._of = of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = bool(scope.get(IS_HEAD)) or scope["method"] == "HEAD"
        try:
            if is_head:
                scope = {**scope, "method": "HEAD"}
            if _matches(scope, self.headers["etag"]):
                headers = {name: self.headers[name] for name in ("etag", "last-modified", "cache-control")}
                await Response(status_code=304, headers=headers)(scope, receive, send)
            else:
                await super().__call__(scope, receive, self._within(send, is_head=is_head))
        except _Whole:
            pass
        # Returning without the closing message makes the server close the connection.
        except TimeoutError:
            logger.warning("reader_disconnected", extra={**self._of, "after_s": self._send_timeout_s})
        except _Shorter:
            logger.warning("file_shortened", extra=self._of)
        finally:
            os.close(self._descriptor)

    def _within(self, send: Send, *, is_head: bool) -> Send:
        """Return a `send` for as many bytes as were announced: a job may still write into the file, or cut it. A reader
        that takes no piece for so long is disconnected, as one of a stream.
        """
        left = 0

        async def within(message: Message) -> None:
            nonlocal left
            is_start, is_last = message["type"] == "http.response.start", not message.get("more_body", False)
            if not is_start:
                body = message["body"][:left]
                left -= len(body)
                message = {**message, "body": body, "more_body": left > 0}
            elif not is_head:
                left = int(Headers(raw=message["headers"])["content-length"])
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
            if not is_start:
                self._note_sent(len(body))
                if (left > 0) == is_last:
                    raise _Shorter if left else _Whole

        return within


class _Whole(Exception):
    """All that was announced is sent, and the file has more."""


class _Shorter(Exception):
    """The file has less than was announced."""


async def file_answer(
    path: str,
    *,
    name: str,
    content_type: str,
    send_timeout_s: float,
    note_sent: Callable[[int], None],
    of: Mapping[str, str],
) -> FileAnswer:
    """Return the answer with this file. Raise Refused: not_found, if it is not there or is no regular file."""
    try:
        opening = event_loops.in_thread(asyncio.get_running_loop(), partial(open_regular, path))
        descriptor, found = await opening
    except OSError as error:
        raise Refused(f"the file cannot be read: {error.strerror or error}", code="not_found") from error
    except RuntimeError as error:
        raise Refused(f"no thread can be started: {error}", code="busy") from error
    return FileAnswer(
        descriptor,
        found,
        name=name,
        content_type=content_type,
        send_timeout_s=send_timeout_s,
        note_sent=note_sent,
        of=of,
    )


def _matches(scope: Scope, etag: str) -> bool:
    """Return whether the client says that it has the file already (RFC 9110, If-None-Match)."""
    known = Request(scope).headers.get("if-none-match", "")
    return known == "*" or etag in (each.strip().removeprefix("W/") for each in known.split(","))
