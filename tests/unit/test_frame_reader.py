"""The supervisor's reading end of a worker's frames: pipe and ring together are one row."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import termios
from collections.abc import AsyncIterator, Callable

import pytest
from support.waiting import Pending, until_async

from killable.supervisor.linux.frame_reader import BURST_TOKENS, SLOW_READ_BYTES, TOKENS_PER_TURN, FrameReader
from killable.workers.protocol import token_ring
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.frames import Frame, encode
from killable.workers.protocol.message_bounds import PIPE_BYTES, WIDE_PIPE_BYTES
from killable.workers.protocol.messages import Kind
from killable.workers.protocol.token_ring import TOKEN_BYTES_MAX, TOKENS_MAX, TokenRingWriter
from killable.workers.runtime.frame_writer import FrameWriter

FENCE = 7
pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the ring is for machines that order writes")


class Listener:
    """Keeps what it is told, in one row."""

    def __init__(self) -> None:
        self.told: list[Frame] = []
        self.from_ring = 0
        self.most_at_once = 0
        self.faults: list[str] = []
        self.then: Callable[[], None] = lambda: None

    def on_frames(self, frames: list[Frame]) -> None:
        self.told += frames
        self.then()

    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None:
        self.told += [Frame(Kind.TOKEN, fence, number, token) for number, token in enumerate(tokens, sequence)]
        self.from_ring += len(tokens)
        self.most_at_once = max(self.most_at_once, len(tokens))
        self.then()

    def on_protocol_error(self, why: str) -> None:
        self.faults.append(why)


class Ring(TokenRingWriter):
    """Lets something happen right before a token is published, when the worker has seen that the ring is watched."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def put(self, token: bytes) -> bool:
        self.before()
        return super().put(token)


class Ends:
    """A worker's writing end and its supervisor's reading end, in one process."""

    def __init__(self) -> None:
        self.pipe, writing = os.pipe()
        self.writing = writing
        ring = token_ring.create()
        self.ring = Ring(ring)
        self.writer = FrameWriter(writing, CODECS["json"], lambda: None, self.ring)
        self.writer.begin(FENCE)
        self.listener = Listener()
        self.reader = FrameReader(asyncio.get_running_loop(), self.pipe, ring, self.listener, may_be_wide=True)
        self.reader.start()
        self.sent: list[bytes] = []

    def token(self, padding: int = 0) -> None:
        text = f"{len(self.sent)} " + "x" * padding
        self.writer.token(text)
        self.sent.append(b'{"text":"%s"}' % text.encode())

    def progress(self) -> None:
        members = {"done": len(self.sent)}
        self.writer.progress(members)
        self.sent.append(b'{"done":%d}' % len(self.sent))

    @property
    def received(self) -> list[bytes]:
        """Return the payloads so far, of which each has the place that its frame says."""
        frames = [frame for frame in self.listener.told if frame.kind != Kind.TOKENS]
        assert [frame.sequence for frame in self.listener.told] == list(range(len(self.listener.told)))
        return [frame.payload for frame in frames]

    async def until_received(self) -> None:
        """Wait until the loop alone has read everything."""
        wanted = len(self.sent)
        await until_async(
            lambda: len(self.received) >= wanted or Pending((len(self.received), wanted)), "everything is read"
        )
        assert self.received == self.sent and not self.listener.faults

    async def burst(self) -> None:
        """Have the ring watched."""
        while not self.ring.is_watched():
            for _ in range(BURST_TOKENS):
                self.token()
            await asyncio.sleep(0)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.reader.close()
    os.close(made.writing)
    del made.ring, made.writer  # their mapping holds a descriptor before Python 3.13


@pytest.mark.parametrize("seed", range(20))
async def test_tokens_and_frames_stay_in_their_row_by_whichever_way_they_come(ends: Ends, seed: int) -> None:
    """Large tokens, those behind a full ring, and all other frames go through the pipe."""
    choose = random.Random(seed)
    for _ in range(60):
        match choose.randrange(6):
            case 0:
                ends.progress()
            case 1:
                ends.token(choose.choice((TOKEN_BYTES_MAX, 1)))
            case 2:
                await asyncio.sleep(0)
            case 3:
                ends.reader.drain()
            case _:
                for _ in range(choose.randrange(300)):
                    ends.token(choose.randrange(3))
                    if choose.randrange(100) == 0:
                        await asyncio.sleep(0)
                await asyncio.sleep(0)
    await ends.until_received()
    assert ends.listener.from_ring


async def test_a_worker_that_takes_its_time_uses_the_pipe_and_wakes_for_each_token(ends: Ends) -> None:
    for _ in range(50):
        ends.token()
        await ends.until_received()
    assert not ends.ring.is_watched() and not ends.listener.from_ring


async def test_a_reader_that_found_nothing_sleeps_until_a_token_comes(ends: Ends) -> None:
    await ends.burst()
    await until_async(lambda: not ends.ring.is_watched() or Pending("watched"), "it sleeps")
    ends.token()
    await ends.until_received()


async def test_between_two_looks_the_loop_sleeps_and_a_frame_is_read_at_once(ends: Ends) -> None:
    """To look again and again would take the interpreter from the thread that reads the tokens."""
    looks, turn = [], ends.reader._turn
    ends.reader._turn = lambda: looks.append(len(ends.sent)) or turn()  # type: ignore[func-returns-value, method-assign]
    await ends.burst()
    turns = 0
    while len(looks) < 20:
        for _ in range(BURST_TOKENS):
            ends.token()
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3 * len(looks)
    ends.progress()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ends.received == ends.sent


async def test_a_reader_that_falls_asleep_while_a_token_is_published_is_woken(ends: Ends) -> None:
    await ends.burst()
    ends.reader.drain()
    ends.ring.before = ends.reader._look
    ends.token()
    assert not ends.ring.is_watched()
    await ends.until_received()
    assert ends.listener.told[-1].kind == Kind.TOKENS


async def test_a_turn_of_the_loop_takes_no_more_than_it_may(ends: Ends) -> None:
    await ends.burst()
    while ends.listener.from_ring + TOKENS_MAX > len(ends.sent):
        ends.token()
    ends.progress()
    before = len(ends.listener.told)
    await asyncio.sleep(0)
    assert len(ends.listener.told) <= before + TOKENS_PER_TURN
    await ends.until_received()
    assert ends.listener.most_at_once <= TOKENS_PER_TURN


async def test_a_pause_leaves_everything_to_the_last_reading(ends: Ends) -> None:
    """As after SIGKILL: what the worker has published is not lost, and comes before the frames behind it."""
    await ends.burst()
    for _ in range(2000):
        ends.token()
    ends.progress()
    ends.reader.pause()
    before = len(ends.received)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(ends.received) == before
    ends.reader.drain()
    assert ends.received == ends.sent


async def test_a_listener_that_reads_on_in_its_call_gets_everything_once(ends: Ends) -> None:
    await ends.burst()
    ends.listener.then = ends.reader.drain
    for number in range(3000):
        ends.token()
        if number % 500 == 0:
            ends.progress()
            await asyncio.sleep(0)
    await ends.until_received()


async def test_tokens_of_the_next_attempt_are_its_own(ends: Ends) -> None:
    await ends.burst()
    ends.token()
    ends.writer.close([(Kind.RESULT, b"null")])
    ends.writer.begin(FENCE + 1)
    for _ in range(50):
        ends.writer.token("next")
    ends.reader.drain()
    fences = [(frame.fence, frame.sequence) for frame in ends.listener.told if frame.fence != FENCE]
    assert fences == [(FENCE + 1, number) for number in range(50)]


async def test_a_frame_behind_tokens_that_never_came_is_passed_on_with_its_gap(ends: Ends) -> None:
    """The attempt has the last word: a gap is a protocol error."""
    await ends.burst()
    os.write(ends.writing, encode(Kind.PROGRESS, FENCE, len(ends.sent) + 5, b"{}"))
    ends.reader.drain()
    assert ends.listener.told[-1].sequence == len(ends.sent) + 5


async def test_what_comes_behind_damage_is_not_read(ends: Ends) -> None:
    """The frame that shows that a token is missing is not read either, nor what a later reading finds."""
    await ends.burst()
    await until_async(lambda: not ends.ring.is_watched() or Pending("watched"), "everything is read")
    before = len(ends.listener.told)
    ends.ring._words[0] = 2**63
    os.write(
        ends.writing, encode(Kind.TOKENS, FENCE, before + 1, b"") + encode(Kind.PROGRESS, FENCE, before + 2, b"{}")
    )
    ends.reader.drain()
    ends.reader.drain()
    assert len(ends.listener.told) == before and len(ends.listener.faults) == 1


async def test_however_little_is_asked_for_all_that_a_wide_pipe_holds_is_read(ends: Ends) -> None:
    """A late timer reads before it decides, and the end of the attempt may be the last of it."""
    fcntl.fcntl(ends.writing, fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)
    while struct.unpack("i", fcntl.ioctl(ends.pipe, termios.FIONREAD, bytes(4)))[0] < WIDE_PIPE_BYTES // 2:
        ends.token(4000)
    ends.writer.close([(Kind.RESULT, b"null")])
    ends.reader.drain(PIPE_BYTES)
    assert ends.received == [*ends.sent, b"null"]


async def test_of_who_sends_what_takes_the_loop_long_little_is_read_in_a_turn(ends: Ends) -> None:
    ends.listener.then = ends.reader.slow_down
    for _ in range(500):
        ends.progress()
    sizes = []
    while len(ends.listener.told) < len(ends.sent):
        before = len(ends.listener.told)
        await asyncio.sleep(0)
        sizes.append(sum(len(frame.payload) for frame in ends.listener.told[before:]))
    first, *rest = [size for size in sizes if size]
    assert first > SLOW_READ_BYTES > max(rest)
    assert ends.received == ends.sent
