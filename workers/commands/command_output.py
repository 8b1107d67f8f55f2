"""Where the output of a command goes: stdout to the job's stream or result, stderr to its log.

Runs in: worker.
"""

from __future__ import annotations

import codecs
import json
import os
from typing import Any, Protocol

from killable.workers.authoring.context import Context
from killable.workers.protocol.codec import TooLarge
from killable.workers.protocol.frames import FRAME_BYTES_MAX

LINE_CHARS_MAX = 64 << 10
"""A longer line is sent in pieces: a command may print no end of line at all."""
WORDS_BYTES = 4 << 10
"""How much of the end of stderr is kept for the message of a failure."""


class Sink(Protocol):
    """Takes one stream of a command."""

    def take(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Note its end. May be called again."""
        ...

    def result(self) -> dict[str, Any]:
        """Return what of it belongs to the job's result."""
        ...


class LineStream:
    """Emits each line, with its end of line, as text. What is no UTF-8 is shown as \\xff."""

    def __init__(self, context: Context) -> None:
        self._emit = context.emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""

    def take(self, data: bytes) -> None:
        self._send(self._decoder.decode(data))

    def _send(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._emit_line(line + "\n")
        while len(self._rest) > LINE_CHARS_MAX:
            self._emit(self._rest[:LINE_CHARS_MAX])
            self._rest = self._rest[LINE_CHARS_MAX:]

    def _emit_line(self, line: str) -> None:
        for at in range(0, len(line), LINE_CHARS_MAX):
            self._emit(line[at : at + LINE_CHARS_MAX])

    def close(self) -> None:
        self._send(self._decoder.decode(b"", final=True))
        if self._rest:
            self._emit(self._rest)
            self._rest = ""

    def result(self) -> dict[str, Any]:
        return {}


class ByteStream:
    """Emits the bytes as they come."""

    def __init__(self, context: Context) -> None:
        self.take = context.emit

    def close(self) -> None: ...

    def result(self) -> dict[str, Any]:
        return {}


class WholeOutput:
    """Keeps all of it for the result, as text or as the value that its JSON stands for."""

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json
        self._kept = bytearray()

    def take(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > FRAME_BYTES_MAX:
            bound = f'it is over {FRAME_BYTES_MAX:,} bytes; stdout = "lines" or "bytes" streams as much as comes'
            raise TooLarge("$.stdout", "str", bound)

    def close(self) -> None: ...

    def result(self) -> dict[str, Any]:
        """Raise ValueError if it is to be JSON and is not."""
        if not self._is_json:
            return {"stdout": self._kept.decode(errors="backslashreplace")}
        try:
            return {"stdout": json.loads(self._kept)}
        except ValueError as error:
            raise ValueError(f"the command has printed no JSON: {error}") from None


def sink_of(stdout: str, context: Context) -> Sink:
    """Return where stdout goes."""
    if stdout == "lines":
        return LineStream(context)
    return ByteStream(context) if stdout == "bytes" else WholeOutput(is_json=stdout == "json")


class ErrorOutput:
    """Writes stderr to the worker's own, which is the job's log, and keeps its end."""

    def __init__(self) -> None:
        self._end = b""

    def take(self, data: bytes) -> None:
        self._end = (self._end + data)[-WORDS_BYTES:]
        while data:
            data = data[os.write(2, data) :]

    def close(self) -> None: ...

    def result(self) -> dict[str, Any]:
        return {}

    def last_lines(self) -> list[str]:
        """Return the last lines, as many as were kept; the first one may be cut."""
        return self._end.decode(errors="backslashreplace").strip().splitlines()
