"""The worker's writing end, where the job's own signal handlers emit."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from support.waiting import until

from killable.workers.protocol.codec import CODECS, Unserializable
from killable.workers.protocol.frames import FRAME_BYTES_MAX, Decoder, Frame
from killable.workers.protocol.message_bounds import PIPE_BYTES, WIDE_PIPE_BYTES
from killable.workers.protocol.messages import Kind
from killable.workers.runtime.frame_writer import FrameWriter

ALARMS = 3000
"""More than the interpreter lets calls nest."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading end and writing end, which the test closes."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def written_under_alarms(
    pipe: tuple[int, int],
    alarms: int,
    write: Callable[[FrameWriter], None],
    on_alarm: Callable[[FrameWriter, int], None],
) -> tuple[list[Frame], int]:
    """Write while nobody reads and a handler is called so often; return what was written, and how often it was."""
    reading, writing = pipe
    channel = FrameWriter(writing, CODECS["json"], lambda: None)
    channel.begin(7)
    main, rung = threading.get_ident(), 0
    frames: list[Frame] = []

    def ring(_number: int, _frame: FrameType | None) -> None:
        nonlocal rung
        rung += 1
        on_alarm(channel, rung)

    def read() -> None:
        while not channel.busy:
            os.sched_yield()
        while rung < alarms:  # one that comes right before the system call does not interrupt it
            signal.pthread_kill(main, signal.SIGALRM)
            os.sched_yield()
        decoder = Decoder()
        while chunk := os.read(reading, 1 << 16):
            frames.extend(decoder.feed(chunk))

    before = signal.signal(signal.SIGALRM, ring)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        write(channel)  # more than a pipe holds
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(writing)
        reader.join()
    return frames, rung


def test_what_handlers_emit_while_a_write_blocks_comes_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """The reader stands still; all that time a handler emits behind the one frame that is being written."""
    frames, rung = written_under_alarms(
        pipe, ALARMS, lambda channel: channel.token("x" * (1 << 20)), lambda channel, number: channel.token(number)
    )
    assert [frame.sequence for frame in frames] == list(range(rung + 1))
    assert [len(frame.payload) > 1000 for frame in frames].count(True) == 1


def test_what_a_signal_left_waiting_goes_before_what_is_emitted_after_it(pipe: tuple[int, int]) -> None:
    def emit_and_ring(channel: FrameWriter, number: int) -> None:
        channel.token(number)
        channel.rang = True

    def emit_twice(channel: FrameWriter) -> None:
        channel.token("x" * (1 << 20))
        channel.rang = False
        channel.token("last")

    frames, rung = written_under_alarms(pipe, 10, emit_twice, emit_and_ring)
    tokens = [next(iter(json.loads(frame.payload).values())) for frame in frames if len(frame.payload) < 1000]
    assert tokens[-1] == "last" and sorted(tokens[:-1]) == [*range(1, rung + 1)]  # a handler may meet another one


def test_a_value_that_is_too_large_is_refused_to_whoever_emits_it(pipe: tuple[int, int]) -> None:
    """Also to a handler in the middle of a write, whose own value is well."""
    refused = []

    def emit_much(channel: FrameWriter, number: int) -> None:
        try:
            channel.token(b"x" * FRAME_BYTES_MAX if number == 1 else number)
        except Unserializable as error:
            refused.append((number, error.type_name))

    frames, rung = written_under_alarms(pipe, 3, lambda channel: channel.token("x" * (1 << 20)), emit_much)
    assert refused == [(1, "bytes")] and len(frames) == rung


def test_what_handlers_emit_while_the_last_word_is_written_is_told_nobody(pipe: tuple[int, int]) -> None:
    def emit_in_the_write(channel: FrameWriter, number: int) -> None:
        if channel.busy:
            channel.token(number)

    frames, _ = written_under_alarms(
        pipe, 10, lambda channel: channel.close([(8, b"x" * (1 << 20))]), emit_in_the_write
    )
    assert [(frame.kind, len(frame.payload)) for frame in frames] == [(8, 1 << 20)]


def test_what_is_sent_inside_a_write_of_another_thread_waits_for_its_end(pipe: tuple[int, int]) -> None:
    """A finalizer may log anywhere."""
    reading, writing = pipe
    channel = FrameWriter(writing, CODECS["json"], lambda: None)
    channel.begin(7)

    class Reenters(bytes):
        def __len__(self) -> int:
            if not channel._queued:
                channel.try_send(Kind.LOG_RECORD, b"inner")
            return super().__len__()

    thread = threading.Thread(target=channel.send, args=(Kind.LOG_RECORD, Reenters(b"outer")), daemon=True)
    thread.start()
    until(lambda: not thread.is_alive(), "it does not wait for itself")
    channel.close([(Kind.RESULT, b"1")])
    channel.try_send(Kind.LOG_RECORD, b"too late")
    os.close(writing)
    frames = Decoder().feed(os.read(reading, 1 << 16))
    assert [(frame.kind, frame.payload) for frame in frames] == [
        (Kind.LOG_RECORD, b"outer"), (Kind.LOG_RECORD, b"inner"), (Kind.RESULT, b"1"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [PIPE_BYTES // 2, WIDE_PIPE_BYTES])
def test_a_result_in_pieces_is_one_frame_for_which_the_pipe_is_made_wider(pipe: tuple[int, int], size: int) -> None:
    reading, writing = pipe
    channel = FrameWriter(writing, CODECS["pickle"], lambda: None)
    channel.begin(7)
    pieces = [b"head", (size - 4) // 2 * b"a", b"", size // 2 * b"b"]
    decoder = Decoder()
    frames: list[Frame] = []

    def read() -> None:
        while chunk := os.read(reading, 1 << 16):
            frames.extend(decoder.feed(chunk))

    reader = threading.Thread(target=read)
    reader.start()
    channel.close([(Kind.TOKEN, b"y"), (Kind.RESULT, pieces), (Kind.IDLE, b"x")])
    found = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    os.close(writing)
    reader.join()
    kinds = [(Kind.TOKEN, b"y"), (Kind.RESULT, b"".join(pieces)), (Kind.IDLE, b"x")]
    assert frames == [Frame(kind, 7, number, payload) for number, (kind, payload) in enumerate(kinds)]
    assert found == (PIPE_BYTES if size < PIPE_BYTES else WIDE_PIPE_BYTES)
