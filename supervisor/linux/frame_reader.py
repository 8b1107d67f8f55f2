"""What a worker sends, from its frames pipe and its ring of tokens, in the order in which it was sent.

Runs in: supervisor. Behind `ports`.

Frames are numbered. The numbers that are missing before a frame of the pipe are those of tokens in the ring. Behind the
last frame come the tokens that were in the ring before the pipe was found empty.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from typing import Protocol

from killable.supervisor import clock
from killable.supervisor.linux.pipe_io import LARGE_READ_BYTES, READ_BYTES, PipeReader
from killable.workers.protocol.frames import Decoder, Frame, FrameError
from killable.workers.protocol.message_bounds import PIPE_BYTES, WIDE_PIPE_BYTES
from killable.workers.protocol.messages import BYTES_MAX_OF_KINDS, Kind
from killable.workers.protocol.token_ring import TOKENS_MAX, TokenRingReader

BURST_TOKENS = 8
"""From so many in one read on, the ring is watched, until a look finds fewer: then the worker takes its time, and a
wake-up for each token is early and cheap enough.
"""
LOOK_S = 0.0005
"""Pause between two looks. Each costs as much as 15 tokens, and takes the interpreter from the thread that reads them.
Timers of asyncio are late by up to a millisecond.
"""
TOKENS_PER_TURN = 1024
"""Maximum from the ring per iteration of the loop: they take as long as READ_BYTES of frames."""
SLOW_READ_BYTES = 512
"""Maximum in a turn from who has sent what takes the loop long: some six frames."""
SLOW_S = 1.0
_TOKEN = int(Kind.TOKEN)


class FrameListener(Protocol):
    """Who is told what was read. See `ports.ProcessListener`."""

    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...


class FrameReader(PipeReader):
    """Reads the pipe and the ring of one worker; owns both descriptors."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, ring: int, listener: FrameListener, *,
        may_be_wide: bool,
    ) -> None:  # fmt: skip
        """`may_be_wide`: the worker makes its pipe wider for large results. A job could, too, and fill it with tiny
        frames, for which its timers would hold up the loop: a pipe that no worker makes wider is read as before.
        """
        super().__init__(loop, descriptor, self._on_bytes)
        self._may_be_wide = may_be_wide
        self._listener: FrameListener = listener
        self._decoder = Decoder(of_kinds=BYTES_MAX_OF_KINDS)
        self._is_broken = False
        self._ring_descriptor = ring
        self._ring: TokenRingReader | None = None
        """Mapped at the first burst of tokens."""
        self._is_started = self._is_watching = False
        self._next_look: asyncio.Handle | None = None
        self._waiting: deque[Frame] = deque()
        """Frames that were read, and that tokens in the ring come before."""
        self._slow_until = 0.0
        self._fence = self._sequence = 0
        """The attempt of the last frame or token, and the number of its next one. Kept only with a ring."""

    @property
    def torn(self) -> int:
        """Bytes received of an unfinished frame."""
        return self._decoder.torn

    def start(self) -> None:
        super().start()
        self._is_started = True

    def drain(self, bytes_max: int = 1 << 20) -> bool:
        """See `PipeReader`; but all that the pipe holds now is read: the end of the attempt may be the last of it."""
        published = 0 if self._ring is None else self._ring.published
        is_empty = super().drain(max(bytes_max, self._held_bytes_max() + 1))  # one more finds it empty
        if not is_empty and self._decoder.missing > 0:  # the rest of a large value, which is only stored
            is_empty = super().drain(min(self._decoder.missing, LARGE_READ_BYTES))
        self._pass_on(published if is_empty else 0, TOKENS_MAX)
        return is_empty

    def _held_bytes_max(self) -> int:
        """Return how much the pipe may hold; a job can make it wider than any worker does."""
        if self._descriptor < 0:
            return 0
        if not self._may_be_wide:
            return PIPE_BYTES
        return min(fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ), WIDE_PIPE_BYTES)

    def pause(self) -> None:
        self._is_started = False
        self._stop_looking()
        super().pause()

    def close_in_child(self) -> None:
        self._close_ring()
        super().close_in_child()

    def close(self) -> None:
        self._close_ring()
        super().close()
        self._listener = _Nobody()

    def _close_ring(self) -> None:
        self._stop_looking()
        self._ring = None
        self._close_ring_descriptor()

    def _stop_looking(self) -> None:
        self._is_watching = False
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _close_ring_descriptor(self) -> None:
        if self._ring_descriptor >= 0:
            os.close(self._ring_descriptor)
            self._ring_descriptor = -1

    @property
    def is_settled(self) -> bool:
        """Whether no token is left, after an attempt that has said that it is over. One that is left is damage."""
        return self._ring is None or self._ring.published == self._ring.consumed

    def slow_down(self) -> None:
        """Read little in a turn for a while: what was sent takes 50 us each, and a read brings a hundred."""
        self.read_bytes = min(self.read_bytes, SLOW_READ_BYTES)
        self._slow_until = clock.monotonic() + SLOW_S

    # ── in each iteration of the loop ──

    def _read_some(self) -> bool:
        if self._ring is None:
            # The rest of a large value is read at once: it is only stored, and the next turn would come later.
            return super()._read_some() or (self._decoder.missing > 0 and super()._read_some())
        is_empty = self._turn()
        if self._waiting:  # on tokens that the worker has put into the ring unwatched: the pipe may stay empty now
            self._look_on()
        return is_empty

    def _turn(self) -> bool:
        published = 0 if self._ring is None else self._ring.published  # first: frames sent before these are in the pipe
        is_empty = not self._waiting and super()._read_some()
        self._pass_on(published if is_empty else 0, TOKENS_PER_TURN)
        return is_empty

    def _watch(self, last: Frame) -> None:
        """Have the worker use the ring, and look into it until there are few."""
        if self._ring is None and self._ring_descriptor >= 0:
            try:
                self._ring = TokenRingReader(self._ring_descriptor)
            except OSError:
                return  # all tokens come through the pipe
            self._close_ring_descriptor()
            self._fence, self._sequence = last.fence, last.sequence + 1
        self._look_on()

    def _look_on(self) -> None:
        if self._ring is not None and self._is_started and not self._is_watching:
            self._is_watching = True
            self._ring.watch()
            self._next_look = self._loop.call_soon(self._look)

    def _look(self) -> None:
        fence, sequence = self._fence, self._sequence
        self._turn()
        if self._ring is None or not self._is_watching:
            return  # closed, or paused
        found = self._sequence - sequence
        if self._fence == fence and found < BURST_TOKENS and not self._waiting:
            self._is_watching = not self._ring.unwatch()
        if self._is_watching:
            self._ring.watch()
            is_behind = found >= TOKENS_PER_TURN or self._waiting
            self._next_look = self._loop.call_later(0 if is_behind else LOOK_S, self._look)

    # ── what was read ──

    def _on_bytes(self, data: bytes) -> None:
        if self._is_broken:
            return  # what follows garbage is garbage
        damage = ""
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            frames, damage = error.frames, str(error)
        missing = self._decoder.missing
        self.read_bytes = READ_BYTES if missing <= READ_BYTES else min(missing, LARGE_READ_BYTES)
        if missing <= READ_BYTES and self._slow_until and clock.monotonic() < self._slow_until:
            self.read_bytes = SLOW_READ_BYTES
        if self._ring is not None:
            self._waiting.extend(frames)
        elif frames:
            self._listener.on_frames(frames)
        if damage:
            self._pass_on(0, TOKENS_MAX)
            self._fail(damage)
        elif len(frames) >= BURST_TOKENS and frames[-1].kind == _TOKEN:
            self._watch(frames[-1])

    def _pass_on(self, published: int, room: int) -> None:
        """Pass on the frames that wait, then the tokens up to number `published` of the ring; at most `room` tokens.

        The listener may read more in its call: what is passed on was taken out before.
        """
        waiting = self._waiting
        while waiting:
            missing = waiting[0].sequence - self._sequence if waiting[0].fence == self._fence else 0
            if missing > 0 and room <= 0:
                return
            if taken := self._take(min(missing, room)):
                room -= taken
            elif waiting:  # else the ring is damaged
                frames = [waiting.popleft()]
                while waiting and waiting[0][1:3] == (frames[-1].fence, frames[-1].sequence + 1):
                    frames.append(waiting.popleft())
                self._fence, self._sequence = frames[-1].fence, frames[-1].sequence + 1
                self._listener.on_frames(frames)
        while self._ring is not None and (taken := self._take(min(published - self._ring.consumed, room))):
            room -= taken

    def _take(self, count: int) -> int:
        """Pass on the next tokens of the ring; return how many. `count` may be below 0."""
        if count <= 0 or self._ring is None or self._is_broken:
            return 0
        try:
            tokens = self._ring.take(count)
        except ValueError as damage:
            self._fail(str(damage))
            return 0
        if tokens:
            sequence, self._sequence = self._sequence, self._sequence + len(tokens)
            self._listener.on_tokens(self._fence, sequence, tokens)
        return len(tokens)

    def _fail(self, why: str) -> None:
        self._is_broken = True
        self._waiting.clear()
        self._listener.on_protocol_error(why)


class _Nobody:
    """Hears what a closed reader still has in hand: it may be closed by whom it tells of a frame."""

    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...
