"""The calls about files, as flows, and the state of a download.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx

from killable.api.client.events import Record
from killable.api.client.file_source import FileSource
from killable.api.client.http_call import HttpCall, job_path
from killable.api.client.retries import RETRY_S_MAX, Flow, Requester, is_busy, may_repeat, pause_s
from killable.workers.errors import KillableError, Refused

PAGE_FILES = 200
"""The most of one answer."""


@dataclass(frozen=True, slots=True)
class FileCalls:
    """The calls about the files of one server."""

    requester: Requester

    def upload(self, source: FileSource) -> Flow[Record]:
        """Send a file; return its record. Not sent again once something of it may have arrived."""
        call = HttpCall("POST", "/v1/files", query={"name": source.name}, file=source, again="unsent")
        return self.requester.members(call)

    def files(self) -> Flow[list[Record]]:
        found: list[Record] = []
        cursor: str | None = None
        while True:
            query = {"limit": PAGE_FILES, "cursor": cursor}
            answer = yield from self.requester.ask(HttpCall("GET", "/v1/files", query=query))
            found += self.requester.server.records(answer, "files")
            cursor = self.requester.server.member(answer, "next_cursor")
            if cursor is None:
                return found

    def file(self, file_id: str) -> Flow[Record]:
        return self.requester.members(HttpCall("GET", _file_path(file_id)))

    def delete(self, file_id: str) -> Flow[Record]:
        return self.requester.members(HttpCall("DELETE", _file_path(file_id), again="unsent"))

    def of_job(self, job_id: str) -> Flow[list[Record]]:
        answer = yield from self.requester.ask(HttpCall("GET", f"{job_path(job_id)}/files"))
        return self.requester.server.records(answer, "files")


def _file_path(file_id: str) -> str:
    return f"/v1/files/{quote(file_id, safe='')}"


class Download:
    """One download into a file: over as many connections as needed, each from where the one before broke."""

    def __init__(self, requester: Requester, job_id: str, name: str, file: IO[bytes]) -> None:
        self._requester = requester
        self._path = f"{job_path(job_id)}/files/{quote(name, safe='')}"
        self._file = file
        self._came = 0
        self._etag = ""
        self._failures = 0
        self.pause_s = 0.0
        self.is_over = False

    @property
    def call(self) -> HttpCall:
        """The request for the next connection. Not compressed: a range is one of the bytes of the file."""
        headers = {"Accept-Encoding": "identity"}
        if self._came:
            headers |= {"Range": f"bytes={self._came}-", "If-Range": self._etag}
        return HttpCall("GET", self._path, headers=headers)

    def opened(self, response: httpx.Response) -> None:
        """Check the answer of a new connection, or raise its error. The body has been read if it is not 2xx."""
        self._requester.server.checked(response)
        if response.status_code != httpx.codes.PARTIAL_CONTENT and self._came:  # it is another file now
            self._file.seek(0)
            self._file.truncate()
            self._came = 0
        self._etag = response.headers.get("etag", "")

    def taken(self, piece: bytes) -> None:
        """Write what has come. Raise OSError."""
        self._file.write(piece)
        self._came += len(piece)
        self._failures = 0

    @contextmanager
    def reconnecting(self) -> Iterator[None]:
        """Wrap one connection. When it breaks, decide whether to connect again, or raise if that is useless."""
        try:
            yield
        except httpx.HTTPError as error:
            self._decide(self._requester.server.unreachable(error))
        except KillableError as error:
            self._decide(error)
        else:
            self.is_over = True

    def _decide(self, error: KillableError) -> None:
        self._failures += 1
        is_hopeful = bool(self._etag) if self._came else may_repeat(self.call, error)
        if isinstance(error, Refused) and not is_busy(error):
            is_hopeful = False
        self.pause_s = min(pause_s(self._failures, error), RETRY_S_MAX)
        asked_s = error.facts.get("retry_after_s") or 0.0
        if self._failures > self._requester.retries or not is_hopeful or asked_s > RETRY_S_MAX:
            raise error


@contextmanager
def written_whole(to: str | os.PathLike[str], name: str) -> Iterator[tuple[IO[bytes], Path]]:
    """Give a file to write into, and the place where it is in the end: `to`, or below it if that is a folder. Until it
    is whole nothing is there, and after an error nothing at all. Raise OSError.
    """
    place = Path(to, name) if os.path.isdir(to) else Path(to)
    part = place.with_name(f".{place.name[:200]}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "wb") as file:
            yield file, place
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
