"""The three pipes of a fake worker. Data is split and delivered late, as in real pipes.

Runs in: the test process. `fake_process` owns them.
"""

from __future__ import annotations

from collections.abc import Callable

from support.fake_world import World

from killable.supervisor.ports import ProcessListener
from killable.workers.protocol.frames import Decoder, FrameError, encode
from killable.workers.protocol.messages import BYTES_MAX_OF_KINDS


class FakePipes:
    """`on_notifications` is told before the listener is."""

    def __init__(self, world: World, listener: ProcessListener, on_notifications: Callable[[bytes], None]) -> None:
        self._world, self._listener, self._on_notifications = world, listener, on_notifications
        self._frames, self._output, self._notifications = bytearray(), bytearray(), bytearray()
        self._decoder = Decoder(of_kinds=BYTES_MAX_OF_KINDS)
        self._broken = False
        self.is_closed = False

    @property
    def torn_bytes(self) -> int:
        return self._decoder.torn

    # ── the worker's ends ──

    def write(self, kind: int, fence: int, sequence: int, payload: bytes) -> None:
        self.write_bytes(encode(kind, fence, sequence, payload))

    def write_bytes(self, data: bytes) -> None:
        self._frames += data
        self._world.soon(self.read_frames)

    def print(self, data: bytes) -> None:
        self._output += data
        self._world.soon(self.read_output)

    def notify(self, notification: int) -> None:
        self._notifications.append(notification)
        self._world.soon(self.read_notifications)

    # ── the supervisor's ends ──

    def read_frames(self) -> None:
        if self.is_closed or not self._frames or self._broken:
            return
        data = _take(self._frames, 1 << 20)
        cut = self._world.random.randrange(len(data))
        for piece in (data[:cut], data[cut:]):
            try:
                frames = self._decoder.feed(piece)
            except FrameError as error:
                self._broken = True
                if error.frames:
                    self._listener.on_frames(error.frames)
                self._listener.on_protocol_error(str(error))
                return
            if frames:
                self._listener.on_frames(frames)

    def read_output(self, bytes_max: int = 1 << 20) -> None:
        if self._output and not self.is_closed:
            self._listener.on_output(_take(self._output, bytes_max))

    def read_notifications(self, bytes_max: int = 1 << 20) -> None:
        if self._notifications and not self.is_closed:
            notifications = _take(self._notifications, bytes_max)
            self._on_notifications(notifications)
            self._listener.on_notifications(notifications)


def _take(pipe: bytearray, bytes_max: int) -> bytes:
    data = bytes(pipe[:bytes_max])
    del pipe[:bytes_max]
    return data
