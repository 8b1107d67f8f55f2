"""A worker's writing end: frames in order, whole, from any thread, callback or signal handler.

Runs in: worker.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from killable.workers.protocol.codec import Codec, Unserializable
from killable.workers.protocol.frames import FRAME_BYTES_MAX, FrameError, encode
from killable.workers.protocol.messages import PROGRESS_BYTES_MAX, Kind, dump_json

_TOKEN = int(Kind.TOKEN)


class FrameWriter:
    """The frames pipe during one attempt. A write blocks while the pipe is full, and stays killable.

    `busy` is true while the main thread is inside a write: `Stopping` is never raised there, or half a frame would
    be left. `answer` is called after such a write when a bell rang in it.

    A signal handler or a finalizer of the job's may emit in the middle of a write: its frame waits for the end of that.
    """

    def __init__(self, descriptor: int, codec: Codec, answer: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._encode_token = codec.encode_token
        self._encode_value = codec.encode_value
        self._answer = answer
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._fence = 0
        self._sequence = 0
        self._open = False
        self.busy = False
        self.rang = False
        self._behind: deque[tuple[int, bytes]] = deque()

    def begin(self, fence: int) -> None:
        """Start the frames of an attempt; those of an earlier one are refused from here on."""
        self._fence, self._sequence, self._open = fence, 0, True

    def token(self, value: Any) -> None:
        """Send what the job yielded or emitted, at once. Raise Unserializable; RuntimeError when the job has ended."""
        try:
            self.send(_TOKEN, self._encode_token(value))
        except FrameError as error:
            raise _too_large(value, error) from None

    def progress(self, members: dict[str, Any]) -> None:
        """Say how far it is. Raise ValueError over PROGRESS_BYTES_MAX."""
        payload = dump_json(members)
        if len(payload) > PROGRESS_BYTES_MAX:
            raise ValueError(f"progress is two numbers and a word, not {len(payload)} bytes")
        self.send(Kind.PROGRESS, payload)

    def checkpoint(self, value: Any) -> None:
        """Send what has been reached. Raise as `token` does."""
        try:
            self.send(Kind.CHECKPOINT, self._encode_value(value))
        except FrameError as error:
            raise _too_large(value, error) from None

    def send(self, kind: int, payload: bytes) -> None:
        """Write one frame, whole."""
        if threading.get_ident() != self._main:
            with self._lock:
                self._write(kind, payload)
            return
        if self.busy:
            if len(payload) > FRAME_BYTES_MAX:
                raise FrameError(f"a payload of {len(payload)} bytes is over the bound of {FRAME_BYTES_MAX}")
            if self._open:  # else the job is over, and what its handlers say in its last word is told nobody
                self._behind.append((kind, payload))
            return
        while self._behind:  # what a bell in an earlier write has left waiting goes first
            self._write_next()
        self._write_busy(kind, payload)
        # No recursion: thousands gather behind a write that blocks, and a call too deep would end in the middle of one.
        while self._behind and not self.rang:
            self._write_next()
        if self.rang:
            self._answer()

    def close(self, closing: Sequence[tuple[int, bytes]]) -> None:
        """Write closing frames in one piece and refuse everything after them, but for more of them."""
        while self._behind:
            self._write_next()
        self._open, self.busy = False, True  # a handler of the job's that emits in here would wait for itself
        try:
            with self._lock:
                frames = [
                    encode(kind, self._fence, self._sequence + number, payload)
                    for number, (kind, payload) in enumerate(closing)
                ]
                self._write_all(b"".join(frames))
                self._sequence += len(frames)
        finally:
            self.busy = False

    def disown(self) -> None:
        """In a process that the job forked: only the worker itself may write frames."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        self._open = False

    def _write_next(self) -> None:
        try:
            kind, payload = self._behind.popleft()
        except IndexError:  # a handler that came after the caller's look has written it
            return
        self._write_busy(kind, payload)

    def _write_busy(self, kind: int, payload: bytes) -> None:
        self.busy = True
        try:
            with self._lock:
                self._write(kind, payload)
        finally:
            self.busy = False

    def _write(self, kind: int, payload: bytes) -> None:
        if not self._open:
            raise RuntimeError("nothing can be emitted: the job has ended, or this is a process that it forked")
        self._write_all(encode(kind, self._fence, self._sequence, payload))
        self._sequence += 1

    def _write_all(self, data: bytes) -> None:
        written = os.write(self._descriptor, data)
        while written < len(data):
            written += os.write(self._descriptor, memoryview(data)[written:])


def _too_large(value: object, error: FrameError) -> Unserializable:
    return Unserializable("$", type(value).__qualname__, str(error))
