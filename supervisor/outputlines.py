"""A job's stdout and stderr, cut into `log` events: one line each.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from killable.workers.messages import dump_json

LINE_BYTES_MAX = 8192
"""A longer line is cut here: an event is never larger than one read."""


class OutputLines:
    """Bytes in, event data out; what is not UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = rest
        return [_event(line) for line in lines]

    def rest(self) -> list[bytes]:
        """Return what stood after the last line end."""
        rest, self._rest = self._rest, b""
        return [_event(rest)] if rest else []


def _event(line: bytes) -> bytes:
    return dump_json({"text": line.decode("utf-8", "replace").removesuffix("\r")})
