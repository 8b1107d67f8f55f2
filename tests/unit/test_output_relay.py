"""The thread that hands over what tasks print: order, bounds, and its end."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from support.waiting import until

from killable.supervisor.executor.output_relay import QUEUE_BYTES_MAX, ROOM_BYTES, Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay("test")
    yield made
    made.close()
    made.join()


@pytest.fixture
def gate(relay: Relay) -> Iterator[threading.Event]:
    """What the relay waits for."""
    opened, entered = threading.Event(), threading.Event()
    relay.put(lambda: (entered.set(), opened.wait()))
    entered.wait()
    yield opened
    opened.set()


def test_acts_run_in_their_order_and_none_ends_the_thread(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    for number in range(100):
        relay.put(lambda number=number: done.append(number))  # type: ignore[misc]
        if number == 50:
            relay.put(lambda: [].pop())
            relay.put(lambda: exit(3))
    relay.join()
    assert done == list(range(100)) and relay.is_idle
    assert [each.message for each in caplog.records] == ["relay_failed"] * 2


class Full(logging.Handler):
    """A handler of a program that raises, as with a disk that is full."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


def test_a_handler_that_raises_for_its_own_record_does_not_end_the_thread(relay: Relay) -> None:
    handler, done = Full(), list[int]()
    logging.getLogger("killable.executor").addHandler(handler)
    try:
        relay.put(lambda: [].pop())
        relay.put(lambda: done.append(1))
        until(lambda: done, "the next one runs")
    finally:
        logging.getLogger("killable.executor").removeHandler(handler)


def test_a_thread_that_works_off_and_the_own_one_never_meet() -> None:
    """The acts of one task run in its context, which only one thread can enter."""
    for _ in range(30):
        relay, context, done = Relay("test"), contextvars.copy_context(), list[int]()
        second = threading.Event()  # never set: the first act waits for another thread to come

        def act(number: int, done: list[int] = done, second: threading.Event = second) -> None:
            second.wait(0 if done else 0.01)
            done.append(number)

        def put(relay: Relay = relay, run: Callable[..., None] = context.run) -> None:
            for number in range(4):
                relay.put(partial(run, act, number))

        putting = threading.Thread(target=put)
        putting.start()
        while putting.is_alive():
            relay.work_off()
        relay.close()
        relay.join()
        assert done == [0, 1, 2, 3]


def test_room_is_told_when_there_is_some_again(relay: Relay, gate: threading.Event) -> None:
    done: list[str] = []
    for name in "ab":
        relay.put(lambda name=name: done.append(name), ROOM_BYTES)  # type: ignore[misc]
    assert relay.is_full
    relay.when_there_is_room(lambda: done.append("room"))
    gate.set()
    relay.join()
    assert done == ["a", "b", "room"] or done == ["a", "room", "b"], done
    assert not relay.is_full


@pytest.mark.parametrize("closed", [False, True])
def test_room_is_told_when_all_was_done_before_somebody_waits_for_it(relay: Relay, closed: bool) -> None:
    """Between a look at `is_full` and the call."""
    done: list[str] = []
    relay.put(lambda: done.append("a"), 2 * ROOM_BYTES)
    if closed:
        relay.close()
    relay.join()
    until(lambda: relay.is_idle and done, "it has nothing to do")
    relay.when_there_is_room(lambda: done.append("room"))
    until(lambda: done == ["a", "room"], "it is told")


def test_what_does_not_fit_is_counted(relay: Relay, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    relay.put(lambda: done.append("fits"), QUEUE_BYTES_MAX + 1)
    relay.put(lambda: done.append("does not"), 7)
    relay.put(lambda: done.append("has no size"))
    gate.set()
    relay.join()
    assert done == ["fits", "has no size"] and "output_dropped: 7 bytes" in caplog.text


def test_a_join_that_is_not_patient_leaves_what_blocks(relay: Relay, gate: threading.Event) -> None:
    relay.put(lambda: None)
    relay.join(is_patient=False)
    assert relay.is_stuck and not relay.is_idle


def test_a_closed_relay_ends_its_thread_and_still_takes_what_comes(relay: Relay) -> None:
    done: list[int] = []
    relay.put(lambda: done.append(1))
    relay.close()
    relay.join()
    assert relay._thread is None
    relay.put(lambda: done.append(2))
    relay.join()
    assert done == [1, 2] and relay._thread is None


def test_without_a_thread_whoever_waits_does_it(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        relay.put(lambda: done.append(1))
    assert done == []
    relay.join()
    assert done == [1]
    relay.put(lambda: done.append(2))
    until(lambda: done == [1, 2], "the thread runs by now")
