"""Write a worker's frames, whole and in order, from any thread, callback or signal handler.

Runs in: worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from killable.workers.protocol.codec import Codec, TooLarge
from killable.workers.protocol.frames import FRAME_BYTES_MAX, FrameError, encode, head
from killable.workers.protocol.message_bounds import PIPE_BYTES, PROGRESS_BYTES_MAX, WIDE_PIPE_BYTES
from killable.workers.protocol.messages import Kind, dump_json
from killable.workers.protocol.token_ring import TokenRingWriter

_TOKEN = int(Kind.TOKEN)


class FrameWriter:
    """Writes to the frames pipe during an attempt. A write blocks while the pipe is full, and stays killable.

    `busy` is true while the main thread is inside a write: `Stopping` is never raised there, since it would leave half
    a frame. `answer` is called after such a write if a signal arrived in it.

    A signal handler or a finalizer of the job may emit in the middle of a write: its frame waits until the write ends.
    """

    def __init__(
        self, descriptor: int, codec: Codec, answer: Callable[[], None], ring: TokenRingWriter | None = None
    ) -> None:
        self._descriptor = descriptor
        self._ring = ring
        self._room = PIPE_BYTES
        """A result in pieces that is larger asks for a wider pipe first, once in the life of a worker."""
        self._encode_token = codec.encode_token
        self._encode_value = codec.encode_value
        self._answer = answer
        self._lock = threading.Lock()
        self._main = get_ident()
        self._fence = 0
        self.sequence = 0
        """How many frames of the attempt were written."""
        self._open = False
        self.busy = False
        self.rang = False
        self._queued: deque[tuple[int, bytes]] = deque()
        self._other_thread = 0
        """The thread that is inside a write, if it is not the main thread."""

    @property
    def is_open(self) -> bool:
        """Whether frames of an attempt are accepted."""
        return self._open

    def begin(self, fence: int) -> None:
        """Start an attempt. From here on frames are accepted, and carry its fence."""
        self._fence, self.sequence, self._open = fence, 0, True

    def token(self, value: Any) -> None:
        """Send a value that the job yielded or emitted. Raise Unserializable; RuntimeError if the job has ended."""
        token = self._encode_token(value)
        ring = self._ring
        if ring is not None and ring.is_watched() and self._put(ring, token):
            return
        try:
            self.send(_TOKEN, token)
        except FrameError as error:
            raise _too_large(value, error) from None

    def _put(self, ring: TokenRingWriter, token: bytes) -> bool:
        """Put a token of the main thread into the ring. Return False if it has to go through the pipe.

        There the first frame of an attempt goes too: it has the fence.
        """
        if self.busy or self._queued or not (self.sequence and self._open) or get_ident() != self._main:
            return False
        self.busy = True
        try:
            with self._lock:
                if not ring.put(token):
                    return False
                self.sequence += 1
            if not ring.is_watched():  # it may be asleep already
                with self._lock:
                    self._write(Kind.TOKENS, b"")
        finally:
            self.busy = False
        if self._queued or self.rang:
            self._finish()
        return True

    def progress(self, members: dict[str, Any]) -> None:
        """Send the progress of the job. Raise ValueError over PROGRESS_BYTES_MAX."""
        payload = dump_json(members)
        if len(payload) > PROGRESS_BYTES_MAX:
            raise ValueError(f"progress is two numbers and a word, not {len(payload)} bytes")
        self.send(Kind.PROGRESS, payload)

    def checkpoint(self, value: Any) -> None:
        """Send an intermediate result. Raise as `token` does."""
        try:
            self.send(Kind.CHECKPOINT, self._encode_value(value))
        except FrameError as error:
            raise _too_large(value, error) from None

    def send(self, kind: int, payload: bytes) -> None:
        """Write one frame, whole."""
        thread = get_ident()
        if thread != self._main:
            if self._other_thread == thread:  # a finalizer ran inside the write below
                self._queued.append((kind, payload))
                return
            with self._lock:
                self._other_thread = thread
                try:
                    self._write(kind, payload)
                finally:
                    self._other_thread = 0
            return
        if self.busy:
            if len(payload) > FRAME_BYTES_MAX:
                raise FrameError(f"a payload of {len(payload)} bytes is over the bound of {FRAME_BYTES_MAX}")
            if self._open:  # else the closing frame is being written, and frames of the job's handlers are dropped
                self._queued.append((kind, payload))
            return
        while self._queued:  # left waiting by an earlier `send` that a signal interrupted
            self._write_next()
        self._write_busy(kind, payload)
        if self._queued or self.rang:
            self._finish()

    def _finish(self) -> None:
        """Do what has to wait until a write ends: write the frames of handlers, and answer a signal."""
        # Not recursive: thousands may wait for a write that blocks, and a RecursionError would end one in the middle.
        while self._queued and not self.rang:
            self._write_next()
        if self.rang:
            self._answer()

    def try_send(self, kind: int, payload: bytes) -> None:
        """Write one frame, or none if the attempt has just been closed."""
        try:
            self.send(kind, payload)
        except RuntimeError:
            if self._open:
                raise

    def close(self, closing: Sequence[tuple[int, bytes | list[bytes]]]) -> None:
        """Write closing frames, and refuse all later frames except further closing frames. A payload in pieces is not
        copied.
        """
        while self._queued:
            self._write_next()
        self._open, self.busy = False, True  # a handler of the job that emits in here would deadlock on the lock
        try:
            with self._lock:
                data, number = b"", self.sequence
                for kind, payload in closing:
                    if isinstance(payload, bytes):
                        data += encode(kind, self._fence, number, payload)
                    else:
                        self._write_pieces([data, head(kind, self._fence, number, payload), *payload])
                        data = b""
                    number += 1
                if data:
                    self._write_all(data)
                self.sequence = number
        finally:
            self.busy = False

    def detach_in_child(self) -> None:
        """Refuse all frames, in a process that the job forked: only the worker itself may write them."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        self._open = False

    def _write_next(self) -> None:
        try:
            kind, payload = self._queued.popleft()
        except IndexError:  # a signal handler has written it since the caller's check
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
        self._write_all(encode(kind, self._fence, self.sequence, payload))
        self.sequence += 1

    def _write_pieces(self, pieces: Sequence[bytes]) -> None:
        size = sum(map(len, pieces))
        if size > self._room:
            self._room = 2 * FRAME_BYTES_MAX
            with contextlib.suppress(OSError):  # pipe(7): users other than root have 64 MiB of pipes in all
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)
        written = os.writev(self._descriptor, pieces)
        if written < size:
            self._write_all(b"".join(pieces)[written:])

    def _write_all(self, data: bytes) -> None:
        written = os.write(self._descriptor, data)
        while written < len(data):
            written += os.write(self._descriptor, memoryview(data)[written:])


def _too_large(value: object, error: FrameError) -> TooLarge:
    return TooLarge("$", type(value).__qualname__, str(error))
