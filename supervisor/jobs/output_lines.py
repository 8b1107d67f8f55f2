"""A job's stdout and stderr, cut into `log` events: one line each.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from killable.workers.protocol.messages import dump_json

LINE_BYTES_MAX = 8192
"""A longer line is cut at this length, which bounds the size of an event."""


class OutputLines:
    """Turns bytes into event data, one event per line. Invalid UTF-8 becomes U+FFFD."""

    def __init__(self, stream: str = "stdout") -> None:
        """`stream`: "stderr" is named in the events."""
        self._rest = b""
        self._members = {} if stream == "stdout" else {"stream": stream}

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = (self._rest + data).split(b"\n")
        *cut, self._rest = _pieces(rest)
        pieces = [piece for line in whole for piece in _pieces(line)]
        return [self._event(piece) for piece in (*pieces, *cut)]

    def rest(self) -> list[bytes]:
        """Return the text after the last line end."""
        rest, self._rest = self._rest, b""
        return [self._event(rest)] if rest else []

    def _event(self, line: bytes) -> bytes:
        return dump_json({"text": line.decode("utf-8", "replace").removesuffix("\r"), **self._members})


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long, between two characters if it is UTF-8."""
    pieces = []
    while len(line) > LINE_BYTES_MAX:
        cut = LINE_BYTES_MAX
        while line[cut] & 0xC0 == 0x80 and cut > LINE_BYTES_MAX - 4:  # a continuation byte
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]
