"""The body of an upload: a file as it is, or multipart/form-data with one file in it.

Runs in: api. `feed` runs in a thread: it parses, hashes and writes.
"""

from __future__ import annotations

from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from killable.api.http.request_faults import fault, invalid
from killable.supervisor.linux.files_folder import UploadWriter
from killable.workers.errors import Refused
from killable.workers.protocol.file_names import content_type_fault, name_fault

MULTIPART = "multipart/form-data"
UNNAMED = "file"
"""The name of a file whose client has sent none."""
ROOM_BYTES = 64 << 10
"""What a multipart body may have beside its file: boundaries, headers."""


class FileBody(Protocol):
    """What becomes of a body's bytes."""

    content_type: str

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raise Refused: malformed, invalid; OSError."""
        ...

    def end(self) -> str:
        """Return the name of the file, when all bytes were fed. Raise Refused: malformed, invalid."""
        ...


class PlainBody:
    """The body is the file."""

    def __init__(self, writer: UploadWriter, name: str, content_type: str) -> None:
        self._writer = writer
        self._name = name
        self.content_type = content_type
        self.feed = writer.write

    def end(self) -> str:
        return self._name


class MultipartBody:
    """A form with one file, as a browser or `curl -F` sends it."""

    def __init__(self, writer: UploadWriter, content_type: str, name: str) -> None:
        """`name`: what the file is to be called, whatever the form says; empty: nothing else. Raise Refused."""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise Refused(f"{MULTIPART} needs a boundary in Content-Type", code="malformed")
        self._writer = writer
        self._wanted = name
        self._name: str | None = None
        self.content_type = ""
        self._is_over = False
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(error) from error

    def end(self) -> str:
        if not self._is_over:
            raise Refused("the form has no end: its closing boundary is missing", code="malformed")
        if self._name is None:
            raise _fault("has no file in it")
        return self._wanted or self._name

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if b"filename" not in options:
            raise _fault("has a field that is no file; the name is in the query: ?name=in.mp4")
        if self._name is not None:
            raise _fault("has more than one file")
        self._name = options[b"filename"].decode("utf-8", "replace").replace("%22", '"').rpartition("/")[2] or UNNAMED
        self.content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        check_name(self._wanted or self._name, "body")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._writer.write(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._is_over = True


def check_name(name: str, where: str) -> None:
    """Raise Refused: invalid, for what cannot be the name of a file."""
    why = name_fault(name)
    if why:
        raise invalid([fault(where, ["name"], why)])


def media_type(content_type: str) -> str:
    """Return what a client says that a file is, as far as a header can repeat it; empty: nothing."""
    return "" if content_type_fault(content_type) else content_type


def _fault(message: str) -> Refused:
    return invalid([fault("body", [], message)])


def _malformed(error: Exception) -> Refused:
    return Refused(f"the form cannot be parsed: {error}", code="malformed")
