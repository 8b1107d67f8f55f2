"""What a client uploads: a path, an open file or bytes, read in pieces when it is sent.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import PurePath
from typing import IO, Any, TypeAlias, TypeGuard

import anyio.to_thread

FileLike: TypeAlias = "str | os.PathLike[str] | IO[bytes] | bytes"
PIECE_BYTES = 256 << 10
UNNAMED = "file"


class FileSource:
    """One file to upload. What was open before stays open, and is read from where it stands."""

    def __init__(
        self, source: FileLike, name: str = "", content_type: str = "", on_sent: Callable[[int], None] | None = None
    ) -> None:
        """`on_sent` is called with the bytes sent so far. Raise OSError for a path that cannot be read, TypeError for a
        file that is open for text.
        """
        self.content_type = content_type or "application/octet-stream"
        self.on_sent = on_sent
        self._path: str | None = None
        self._file: Any = None
        self._start = 0
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._file = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            self._path = os.fspath(source)
            name = name or os.path.basename(self._path)
            with open(self._path, "rb"):
                pass  # a path that cannot be read is an error here, and not within a request
        else:
            if isinstance(source, io.TextIOBase):
                raise TypeError("the file is open for text: open it with 'rb'")
            self._file = source
            name = name or _name_of(source)
        self.name = name or UNNAMED
        self.size = self._size()

    def _size(self) -> int | None:
        """Return how many bytes there are; None: that is seen at their end."""
        if self._path is not None:
            found = os.stat(self._path)
            return found.st_size if os.path.isfile(self._path) else None
        try:
            self._start = self._file.tell()
            end: int = self._file.seek(0, os.SEEK_END)
            self._file.seek(self._start)
        except (OSError, AttributeError):
            return None
        return end - self._start

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request with it."""
        length = {} if self.size is None else {"Content-Length": str(self.size)}
        return {"Content-Type": self.content_type, **length}

    def pieces(self) -> Iterator[bytes]:
        """Yield the content. With a size that is known, no more than that: the file may grow meanwhile."""
        file = self._opened()
        left, sent = self.size, 0
        try:
            while left is None or left > 0:
                piece: bytes = file.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
                if not piece:
                    break
                left = None if left is None else left - len(piece)
                sent += len(piece)
                yield piece
                if self.on_sent is not None:
                    self.on_sent(sent)
        finally:
            if self._path is not None:
                file.close()

    async def pieces_async(self) -> AsyncIterator[bytes]:
        """Yield the same, read in a thread."""
        pieces = self.pieces()
        try:
            while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
                yield piece
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def _opened(self) -> Any:
        if self._path is not None:
            return open(self._path, "rb")
        if self.size is not None:
            self._file.seek(self._start)  # it may be sent again
        return self._file


def is_file(value: object) -> TypeGuard[Any]:
    """Return whether a value of an input may be a file to upload: a path or an open file."""
    return isinstance(value, PurePath) or (hasattr(value, "read") and not isinstance(value, type))


def _name_of(file: object) -> str:
    name = getattr(file, "name", "")
    return os.path.basename(name) if isinstance(name, str) and not name.startswith("<") else ""
