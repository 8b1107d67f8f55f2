"""The worker's writing end, where the job's own signal handlers emit."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from killable.workers.channel import Channel
from killable.workers.codec import CODECS
from killable.workers.frames import Decoder, Frame

ALARMS = 3000
"""More than the interpreter lets calls nest."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading end and writing end, which the test closes."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def test_what_handlers_emit_while_a_write_blocks_comes_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """The reader stands still; all that time a handler emits behind the one frame that is being written."""
    reading, writing = pipe
    channel = Channel(writing, CODECS["json"], lambda: None)
    channel.begin(7)
    main, rung = threading.get_ident(), 0
    frames: list[Frame] = []

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        nonlocal rung
        rung += 1
        channel.token(rung)

    def read() -> None:
        while rung < ALARMS:  # one that comes right before the system call does not interrupt it
            signal.pthread_kill(main, signal.SIGALRM)
            os.sched_yield()
        decoder = Decoder()
        while chunk := os.read(reading, 1 << 16):
            frames.extend(decoder.feed(chunk))

    before = signal.signal(signal.SIGALRM, on_alarm)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        channel.token("x" * (1 << 20))  # more than a pipe holds
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(writing)
        reader.join()
    assert [frame.sequence for frame in frames] == list(range(rung + 1))
    assert [len(frame.payload) > 1000 for frame in frames].count(True) == 1


def test_what_handlers_emit_while_the_last_word_is_written_is_told_nobody(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    channel = Channel(writing, CODECS["json"], lambda: None)
    channel.begin(7)
    main, rung = threading.get_ident(), 0
    frames: list[Frame] = []

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        nonlocal rung
        rung += 1
        if channel.busy:
            channel.token(rung)

    def read() -> None:
        while rung < 10:
            signal.pthread_kill(main, signal.SIGALRM)
            os.sched_yield()
        decoder = Decoder()
        while chunk := os.read(reading, 1 << 16):
            frames.extend(decoder.feed(chunk))

    before = signal.signal(signal.SIGALRM, on_alarm)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        channel.close([(8, b"x" * (1 << 20))])
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(writing)
        reader.join()
    assert [(frame.kind, len(frame.payload)) for frame in frames] == [(8, 1 << 20)]
