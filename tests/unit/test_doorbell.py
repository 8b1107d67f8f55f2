"""SIGTERM comes again while it is being taken: at each line of the doorbell's own code, by real signals.

The supervisor repeats it until it is acknowledged, so on a slow machine it does come there. Whoever is told to end has
told before that it heard: else its supervisor takes it for deaf and kills it in its clean-up.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from killable.workers import doorbell as module
from killable.workers.channel import Channel
from killable.workers.codec import CODECS
from killable.workers.context import Stopping
from killable.workers.doorbell import Doorbell
from killable.workers.frames import encode
from killable.workers.messages import BELL_ACKNOWLEDGED, BELL_EXPIRED, Expire, Kind, Stop
from killable.workers.operations import Operation, Operations, OperationTimedOut
from killable.workers.orders import Orders

LINES_MIN = 15
"""Fewer, and the signal was not sent again where it matters."""


class Again:
    """Sends SIGTERM at the n-th line that the doorbell runs (sys.settrace); the handler then runs right there."""

    def __init__(self, line: int) -> None:
        self._lines = line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> Again | None:
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            self._lines -= 1
            if self._lines == 0:
                self.where = f"line {frame.f_lineno} in {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGTERM)
        return self


class Door:
    """A doorbell that hangs in this process, between its worker's pipes."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._orders, self._supervisor = Orders(ours.detach()), theirs
        self._bells, bells = os.pipe()
        self._frames, frames = os.pipe()
        self._stack = os.memfd_create("stack")
        self._writing = (bells, frames, self._stack)
        self.doorbell = Doorbell(bells, self._stack, self._orders.word_for)
        self.doorbell.channel = Channel(frames, CODECS["json"], self.doorbell.answer)
        os.set_blocking(self._bells, False)
        self.doorbell.hang()

    def ring(self, order: bytes, again: Again) -> tuple[BaseException | None, bytes]:
        """Give an order and ring for it; return what was raised, and what had been told by then."""
        self._supervisor.sendall(order)
        raised: BaseException | None = None
        traced = sys.gettrace()
        try:
            sys.settrace(again)
            signal.raise_signal(signal.SIGTERM)
        except (Stopping, OperationTimedOut) as error:
            raised = error
        finally:
            sys.settrace(traced)
        return raised, os.read(self._bells, 4096)

    def close(self) -> None:
        self._orders.close()
        self._supervisor.close()
        for descriptor in (self._bells, self._frames, *self._writing):
            os.close(descriptor)


@pytest.fixture
def door() -> Iterator[Door]:
    c_module: Any = sys.modules["_signal"]
    before = c_module.signal, sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    made = Door()
    yield made
    made.doorbell.forget()
    signal.set_wakeup_fd(-1)
    c_module.signal, sys.unraisablehook = before[:2]
    signal.signal(signal.SIGTERM, before[2])
    made.close()


def test_a_stop_is_acknowledged_before_it_is_raised_wherever_the_signal_comes_again(door: Door) -> None:
    for line in itertools.count(1):
        again, fence = Again(line), line  # an attempt each
        door.doorbell.expect(fence)
        stop = Stop("cancelled", by="user", grace_s=1.0)
        raised, told = door.ring(encode(Kind.STOP, fence, 0, stop.encode()), again)
        assert isinstance(raised, Stopping) and raised is door.doorbell.stopping, again.where
        assert BELL_ACKNOWLEDGED in told, f"not acknowledged: SIGTERM came again at {again.where}"
        door.doorbell.answer()  # raises nothing more
        if not again.where:
            break
    assert line > LINES_MIN


def test_an_operations_end_is_told_before_it_is_raised_wherever_the_signal_comes_again(door: Door) -> None:
    channel = door.doorbell.channel
    for line in itertools.count(1):
        again, fence = Again(line), line
        channel.begin(fence)
        door.doorbell.operations = operations = Operations(channel, {})
        with Operation(operations, "fetch", 60.0, "raise"):
            door.doorbell.expect(fence)
            raised, told = door.ring(encode(Kind.EXPIRE, fence, 0, Expire(1).encode()), again)
            assert isinstance(raised, OperationTimedOut), again.where
            assert BELL_EXPIRED in told, f"not told: SIGTERM came again at {again.where}"
            door.doorbell.answer()
        if not again.where:
            break
    assert line > LINES_MIN
