"""A job's stdout and stderr, cut into `log` events: one line each.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import json

LINE_BYTES_MAX = 8192
"""A longer line is cut at this length, which bounds the size of an event."""

LINE_END = "\n"

_encode = json.JSONEncoder(separators=(LINE_END, ":")).encode
"""Puts a line end between the members of a list. In ASCII JSON none stands elsewhere."""


class OutputLines:
    """Turns bytes into event data, one event per line. Invalid UTF-8 becomes U+FFFD.

    No call of a function in Python is made for a line: a pipe full of line ends, 65,536 lines, took 0.7 s of the event
    loop, in which no job can be killed. It takes a tenth of that.
    """

    def __init__(self, stream: str = "stdout") -> None:
        """`stream`: "stderr" is named in the events."""
        self._rest = b""
        self._end = "}" if stream == "stdout" else f',"stream":{json.dumps(stream)}}}'

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = (self._rest + data).split(b"\n")
        *cut, self._rest = _pieces(rest)
        if whole and max(map(len, whole)) > LINE_BYTES_MAX:
            whole = [piece for line in whole for piece in _pieces(line)]
        return self._events(whole + cut)

    def rest(self) -> list[bytes]:
        """Return the text after the last line end."""
        rest, self._rest = self._rest, b""
        return self._events([rest]) if rest else []

    def _events(self, lines: list[bytes]) -> list[bytes]:
        if not lines:
            return []
        # A line end is part of no character, also of none that is not valid.
        text = b"\n".join(lines).decode("utf-8", "replace")
        texts = text.replace("\r\n", LINE_END).removesuffix("\r").split(LINE_END)
        begin = '{"text":'
        between = f"{self._end}\n{begin}"
        return f"{begin}{_encode(texts)[1:-1].replace(LINE_END, between)}{self._end}".encode("ascii").split(b"\n")


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
