"""SIGTERM comes again while it is being taken: at each line of the handler's own code, by real signals.

The supervisor repeats it until it is acknowledged, so on a slow machine it does come there. A job that is
stopped has acknowledged it before: otherwise its supervisor would kill it in its clean-up.
"""

from __future__ import annotations

import asyncio
import dis
import itertools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from killable import Context, job
from killable.workers.authoring import job_functions, registered_types
from killable.workers.authoring.context import Stopping
from killable.workers.authoring.operations import Operation, Operations, OperationTimedOut
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.frames import Decoder, encode
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_EXPIRED,
    NOTIFY_REPLACED,
    NOTIFY_RESTORED,
    NOTIFY_SEEN,
    NOTIFY_UNSEEN,
    Expire,
    Kind,
    Raised,
    Run,
    Stop,
)
from killable.workers.runtime import interrupted_code
from killable.workers.runtime import sigterm_handler as module
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.order_reader import OrderReader
from killable.workers.runtime.rlimits import ResourceLimits
from killable.workers.runtime.sigterm_handler import StopSignal

LINES_MIN = 15
"""Fewer, and the signal was not sent again where it matters."""


class Again:
    """Sends SIGTERM at the n-th line that the handler runs (sys.settrace); the handler then runs right there."""

    def __init__(self, line: int) -> None:
        self._lines = line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> Again | None:
        if frame.f_code.co_filename not in (module.__file__, interrupted_code.__file__):
            return None
        if event == "line":
            self._lines -= 1
            if self._lines == 0:
                self.where = f"line {frame.f_lineno} in {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGTERM)
        return self


class Door:
    """A StopSignal that is installed in this process, between its worker's pipes."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._orders, self._supervisor = OrderReader(ours.detach()), theirs
        self._notifications, notifications = os.pipe()
        self._frames, frames = os.pipe()
        self._stack = os.memfd_create("stack")
        self.writing = (notifications, frames, self._stack)
        self.stop_signal = StopSignal(notifications, self._stack, self._orders.order_for)
        self.stop_signal.channel = FrameWriter(frames, CODECS["json"], self.stop_signal.answer)
        os.set_blocking(self._notifications, False)
        self.stop_signal.install()

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
        return raised, os.read(self._notifications, 4096)

    def order(self, *orders: bytes) -> None:
        self._supervisor.sendall(b"".join(orders))

    def said(self) -> list[str]:
        """Return the tokens that were sent."""
        os.set_blocking(self._frames, False)
        frames = Decoder().feed(os.read(self._frames, 1 << 16))
        return [json.loads(frame.payload)["text"] for frame in frames if frame.kind == Kind.TOKEN]

    def notified(self) -> list[int]:
        """Return what was told by other than messages since the last call."""
        try:
            return list(os.read(self._notifications, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        self._orders.close()
        self._supervisor.close()
        for descriptor in (self._notifications, self._frames, *self.writing):
            os.close(descriptor)


@pytest.fixture
def door() -> Iterator[Door]:
    c_module: Any = sys.modules["_signal"]
    before = c_module.signal, sys.unraisablehook, signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd
    made = Door()
    yield made
    made.stop_signal.forget()
    signal.set_wakeup_fd(-1)
    c_module.signal, sys.unraisablehook, _, signal.set_wakeup_fd = before
    signal.signal(signal.SIGTERM, before[2])
    made.close()


def test_only_a_handler_that_is_set_is_told_of(door: Door) -> None:
    """While the job has one of its own, native code is not killed early."""

    def set_one() -> None:
        with pytest.raises(ValueError, match="main thread"):
            signal.signal(signal.SIGTERM, print)

    thread = threading.Thread(target=set_one)
    thread.start()
    thread.join()
    with pytest.raises(TypeError):
        signal.signal(signal.SIGTERM, "no handler")  # type: ignore[arg-type]
    assert door.notified() == []
    for handler in (print, signal.SIG_DFL, signal.SIG_IGN):
        before = signal.signal(signal.SIGTERM, handler)
        assert door.notified() == [NOTIFY_REPLACED]
        signal.signal(signal.SIGTERM, before)
        assert door.notified() == [NOTIFY_RESTORED]


def test_who_takes_the_wakeup_descriptor_is_told_of(door: Door) -> None:
    """As asyncio does for its signal handlers. No number shows then that a signal is delivered."""
    with asyncio.Runner() as runner:
        runner.get_loop().add_signal_handler(signal.SIGUSR1, print)
        assert door.notified() == [NOTIFY_UNSEEN]
    assert door.notified() == [NOTIFY_UNSEEN]
    with pytest.raises(OSError, match="Bad file descriptor"):
        signal.set_wakeup_fd(1 << 20)
    assert door.notified() == []
    assert signal.set_wakeup_fd(door.writing[0], warn_on_full_buffer=False) == -1
    assert door.notified() == [NOTIFY_SEEN]


def test_a_stop_is_acknowledged_before_it_is_raised_wherever_the_signal_comes_again(door: Door) -> None:
    for line in itertools.count(1):
        again, fence = Again(line), line  # an attempt each
        door.stop_signal.expect(fence)
        stop = Stop("cancelled", by="user", grace_s=1.0)
        raised, told = door.ring(encode(Kind.STOP, fence, 0, stop.encode()), again)
        assert isinstance(raised, Stopping) and raised is door.stop_signal.stopping, again.where
        assert NOTIFY_ACKNOWLEDGED in told, f"not acknowledged: SIGTERM came again at {again.where}"
        door.stop_signal.answer()  # raises nothing more
        if not again.where:
            break
    assert line > LINES_MIN


def test_an_operations_end_is_told_before_it_is_raised_wherever_the_signal_comes_again(door: Door) -> None:
    channel = door.stop_signal.channel
    for line in itertools.count(1):
        again, fence = Again(line), line
        channel.begin(fence)
        door.stop_signal.operations = operations = Operations(channel, {})
        with Operation(operations, "fetch", 60.0, "raise"):
            door.stop_signal.expect(fence)
            raised, told = door.ring(encode(Kind.EXPIRE, fence, 0, Expire(1).encode()), again)
            assert isinstance(raised, OperationTimedOut), again.where
            assert NOTIFY_EXPIRED in told, f"not told: SIGTERM came again at {again.where}"
            door.stop_signal.answer()
        if not again.where:
            break
    assert line > LINES_MIN


# ── in asyncio ──


def test_what_asyncio_calls_of_the_library_is_its_own_and_what_the_job_calls_is_not() -> None:
    """A step that the loop has in its hand would be lost there."""
    judged: dict[str, tuple[bool, bool]] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"] in ("json", "selectors"):
            place = frame.f_code.co_name if frame.f_globals["__name__"] == "selectors" else where
            judged[place] = interrupted_code.runs_the_loop(frame), interrupted_code.is_event_loops(frame)

    async def main() -> None:
        nonlocal where
        loop = asyncio.get_running_loop()
        loop.call_soon(json.dumps, 1)
        await asyncio.sleep(0.001)
        where = "by the job"
        json.dumps(1)

    where, profiled = "by the loop", sys.getprofile()
    sys.setprofile(watch)
    try:
        asyncio.run(main())
    finally:
        sys.setprofile(profiled)
    assert judged["by the loop"] == (True, True) and judged["by the job"] == (False, False)
    assert judged["select"] == (False, True), "while it waits an exception loses nothing"


def test_a_signal_that_comes_again_while_asyncio_takes_the_first_one_is_asyncios_own(door: Door) -> None:
    """On a slow machine the handler may be at work for longer than the supervisor waits before it rings again. Then it
    is told by its frames whose it is; or it is only noted, while words are read and taken.
    """
    judged: dict[str, bool] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("killable."):
            judged[frame.f_code.co_qualname] = door.stop_signal._reading or interrupted_code.is_event_loops(frame)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(60)

    door.stop_signal.expect(1)
    door.order(encode(Kind.STOP, 1, 0, Stop("cancelled", by="user", grace_s=1.0).encode()))
    profiled = sys.getprofile()
    with pytest.raises(Stopping):
        try:
            sys.setprofile(watch)
            asyncio.run(main())
        finally:
            sys.setprofile(profiled)
    assert all(judged.values()) and {
        "StopSignal._on_term",
        "Stop.decode",
        "Stopping.__init__",
        "StopSignal._notify",
    } <= set(judged), judged


# ── between two yields ──

HEARS = ("RESUME", "JUMP_BACKWARD", "CALL")
"""Where the interpreter looks whether a signal has come (CHECK_EVAL_BREAKER in its bytecodes.c)."""
STEPS_MIN = 10


class Between:
    """Rings at the given steps of what drives a generator: its instructions where Python runs signal handlers."""

    def __init__(self, door: Door, rings: dict[int, bytes]) -> None:
        self._door, self._rings = door, rings
        self._steps = 0
        self.where: list[str] = []

    @property
    def is_done(self) -> bool:
        return len(self.where) == len(self._rings)

    def __call__(self, frame: FrameType, event: str, _: object) -> Between | None:
        if frame.f_code is not Execution._drive.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith(HEARS):
            self._steps += 1
            if self._steps in self._rings:
                self.where.append(f"line {frame.f_lineno}, instruction {frame.f_lasti}")
                self._door.order(self._rings[self._steps])
                signal.raise_signal(signal.SIGTERM)
        return self


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Job types of a test are those of no other."""
    monkeypatch.setattr(registered_types, "_jobs", {})


def drive(door: Door, fence: int, rings: dict[int, bytes]) -> tuple[Between, tuple[Kind, bytes]]:
    """Run the job `stream` as a worker does, with rings in between; return what became of it."""
    run = Run("job-1", "stream", 1, b"{}", announce=False)
    attempt = Execution(
        run, {}, job_functions.registered(), CODECS["json"], door.stop_signal.channel, "", ResourceLimits(), None
    )  # fmt: skip
    door.stop_signal.channel.begin(fence)
    between, traced = Between(door, rings), sys.gettrace()
    try:
        sys.settrace(between)
        return between, attempt.outcome(door.stop_signal, fence)
    finally:
        sys.settrace(traced)


def test_an_operations_end_goes_into_the_generator_wherever_its_signal_comes(door: Door, registry: None) -> None:
    @job
    def stream(ctx: Context) -> Iterator[str]:
        try:
            with ctx.operation("fetch", 60.0, "raise"):
                for _ in range(3):
                    yield "t"
        except OperationTimedOut as error:
            yield error.path
        yield "last"

    drive(door, 1 << 20, {})  # 3.12.1 tells of instructions from the second frame on
    assert door.said() == ["t", "t", "t", "last"]
    for step in itertools.count(1):
        between, (kind, payload) = drive(door, step, {step: encode(Kind.EXPIRE, step, 0, Expire(1).encode())})
        said = door.said()
        assert kind == Kind.RESULT and said[-1] == "last", (between.where, said, payload)
        if not between.is_done:
            break
        heard_late = said[:-1] == ["t"] * 3  # it had left the operation by then, or was not in it yet
        assert said[-2] == "fetch" or heard_late, (between.where, said)
    assert step > STEPS_MIN


def test_a_stop_reaches_the_generator_wherever_its_signal_comes_even_right_behind_another(
    door: Door, registry: None
) -> None:
    heard: list[str] = []

    @job
    def stream(ctx: Context) -> Iterator[str]:
        try:
            heard.append("began")
            try:
                with ctx.operation("fetch", 60.0, "raise"):
                    for _ in range(3):
                        yield "t"
            except OperationTimedOut:
                yield "late"
            yield "last"
        except Stopping as stopping:
            heard.append(stopping.cause)
            raise

    fences = itertools.count(1)
    for first in itertools.count(1):
        for second in itertools.count(first + 1):
            fence = next(fences)
            stop = encode(Kind.STOP, fence, 0, Stop("cancelled", by="user", grace_s=1.0).encode())
            expire = encode(Kind.EXPIRE, fence, 0, Expire(1).encode())
            heard.clear()
            between, (kind, payload) = drive(door, fence, {first: expire, second: stop})
            said = door.said()
            if len(between.where) < 2:
                break
            assert door.stop_signal.stopping is not None
            if kind == Kind.RESULT:
                assert said[-1] == "last", (between.where, said)
                continue  # it came with the generator's last step
            assert Raised.decode(payload).cause == "stopped", (between.where, payload)
            assert heard in ([], ["began", "cancelled"]), f"{between.where}: the generator never heard of it"
        if not between.where:
            break
    assert first > STEPS_MIN
