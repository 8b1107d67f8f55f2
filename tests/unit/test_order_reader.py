"""The orders socket, both ends of it: frames in order, each with its descriptor, whatever the socket takes at once."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from killable.supervisor.linux.pipe_io import PipeWriter
from killable.workers.protocol.frames import Frame, encode
from killable.workers.protocol.messages import Kind
from killable.workers.protocol.shared_memory import SealedInput
from killable.workers.runtime.order_reader import OrderReader


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """(the supervisor's, the worker's), each to be owned and closed by one end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield ours.detach(), theirs.detach()


async def next_order(orders: OrderReader) -> Frame | None:
    """Read in a thread, as another process would; the loop goes on writing."""
    return await asyncio.to_thread(lambda: orders.next() if orders.wait() else None)


def stop_order(fence: int) -> bytes:
    return encode(Kind.STOP, fence, 0, b"{}")


async def test_orders_come_in_order_each_with_its_own_descriptors(pair: tuple[int, int]) -> None:
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    big = b"x" * 300_000  # far more than the socket takes at once
    for number in range(6):
        sealed = [SealedInput.of(b"%d %d" % (number, place)) for place in range(number % 3)]
        writer.write(encode(Kind.RUN, number, 0, big), [each.descriptor for each in sealed])
        for each in sealed:
            each.close()  # it is the caller's: what is written later must not need it
    for number in range(6):
        frame = await next_order(orders)
        assert frame is not None and (frame.fence, frame.payload) == (number, big)
        for place in range(number % 3):
            descriptor = orders.take_descriptor()
            assert descriptor is not None and not os.get_inheritable(descriptor)
            came = SealedInput(descriptor)
            with came.mapped() as content:
                assert content[:] == b"%d %d" % (number, place)
            came.close()
    assert orders.take_descriptor() is None
    writer.close()
    assert await next_order(orders) is None
    orders.close()


async def test_an_expiry_is_taken_out_and_a_stop_comes_before_it(pair: tuple[int, int]) -> None:
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    writer.write(encode(Kind.EXPIRE, 1, 0, b"1") + encode(Kind.EXPIRE, 2, 0, b"2") + encode(Kind.EXPIRE, 2, 0, b"3"))
    assert [word.payload for _ in range(3) if (word := orders.order_for(2)) is not None] == [b"2", b"3"]
    writer.write(encode(Kind.EXPIRE, 2, 0, b"4") + stop_order(2))
    assert [word.kind for _ in range(2) if (word := orders.order_for(2)) is not None] == [Kind.STOP, Kind.STOP]
    writer.close()
    orders.close()


async def test_a_stop_is_found_behind_a_small_order_and_another_attempts_is_not(pair: tuple[int, int]) -> None:
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    assert orders.order_for(1) is None  # nothing is there, and it does not wait
    writer.write(stop_order(1))
    writer.write(stop_order(2))
    assert orders.order_for(3) is None
    word = orders.order_for(2)
    assert word is not None and (word.kind, word.payload) == (Kind.STOP, b"{}")
    writer.close()
    orders.close()


async def test_a_writer_that_is_closed_keeps_nothing_open(pair: tuple[int, int]) -> None:
    """`nothing_left` looks at the descriptors."""
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    writer.write(encode(Kind.RUN, 1, 0, b"x" * 300_000))
    sealed = SealedInput.of(b"x")
    writer.write(encode(Kind.RUN, 2, 0, b""), [sealed.descriptor])
    sealed.close()
    writer.close()
    writer.close()
    writer.write(stop_order(2))  # after the end: nothing happens
    orders.close()


async def test_a_reader_that_has_gone_closes_the_writer(pair: tuple[int, int]) -> None:
    writer = PipeWriter(asyncio.get_running_loop(), pair[0])
    os.close(pair[1])
    sealed = SealedInput.of(b"x")
    writer.write(encode(Kind.RUN, 1, 0, b"x"), [sealed.descriptor])
    writer.write(stop_order(1))
    sealed.close()
    with pytest.raises(OSError):
        os.fstat(pair[0])


async def test_a_reader_that_goes_with_orders_unread_closes_the_writer(pair: tuple[int, int]) -> None:
    """Then the socket says ECONNRESET, not EPIPE."""
    writer = PipeWriter(asyncio.get_running_loop(), pair[0])
    writer.write(encode(Kind.RUN, 1, 0, b"x" * 300_000))
    os.close(pair[1])
    writer.write(stop_order(1))
    async with asyncio.timeout(60):
        while not writer.is_closed:
            await asyncio.sleep(0)
    with pytest.raises(OSError):
        os.fstat(pair[0])


async def test_descriptors_that_nobody_took_are_closed(pair: tuple[int, int]) -> None:
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    sealed = SealedInput.of(b"x")
    writer.write(encode(Kind.RUN, 1, 0, b""), [sealed.descriptor])
    sealed.close()
    assert await next_order(orders) is not None
    writer.close()
    orders.close()


async def test_an_order_whose_descriptor_found_no_room_has_none(pair: tuple[int, int]) -> None:
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    sealed = SealedInput.of(b"x")
    writer.write(encode(Kind.RUN, 1, 0, b""), [sealed.descriptor])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        assert orders.wait()
        frame = orders.next()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert frame is not None and frame.fence == 1
    assert orders.take_descriptor() is None
    for end in (writer, orders, sealed):
        end.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_descriptor_that_cannot_be_passed_ends_the_orders(pair: tuple[int, int], waits: bool) -> None:
    """As ETOOMANYREFS and EMFILE do: the worker sees the end of its orders, and goes. `waits`: behind other orders."""
    writer, orders = PipeWriter(asyncio.get_running_loop(), pair[0]), OrderReader(pair[1])
    if waits:
        writer.write(encode(Kind.RUN, 1, 0, b"x" * 300_000))
    nobodys = os.dup(pair[1])
    os.close(nobodys)
    writer.write(encode(Kind.RUN, 2, 0, b"{}"), [nobodys])
    assert writer.is_closed
    writer.write(stop_order(2))  # harmless
    assert await next_order(orders) is None
    orders.close()
