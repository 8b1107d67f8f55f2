"""What `ports.Process` promises of writing to a worker and of reading it: on the fake one and on the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from real_and_fake_stages import on_both_sides
from spawner_stage import Stage
from support.waiting import Pending, until_async

from killable.supervisor.models import Verdict
from killable.workers.protocol.messages import Kind

pytestmark = pytest.mark.row("PEERS-L")
T = TypeVar("T")
LARGE_BYTES = 4 << 20
"""More than a socket takes at once."""


def in_another_thread(act: Callable[[], T]) -> T:
    returned: list[T] = []
    thread = threading.Thread(target=lambda: returned.append(act()))
    thread.start()
    thread.join()
    return returned[0]


@on_both_sides()
async def test_an_order_that_the_socket_does_not_take_at_once_is_written_when_it_does(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "returns", 1, padding=LARGE_BYTES)
    await stage.wait_for_frame(worker, Kind.IDLE, 1)
    assert Kind.RESULT in worker.reports.kinds(1)


@on_both_sides()
async def test_another_threads_first_reason_stays_and_only_what_was_told_of_is_killed_by_one(stage: Stage) -> None:
    first, second = Verdict("cancelled"), Verdict("timeout.run")
    worker = stage.fork()
    worker.process.hold(1)
    assert not in_another_thread(lambda: worker.process.kill_now(1, first)) and worker.process.killed_for is None
    await stage.until(lambda: {"forked", "frames"} <= set(worker.reports.calls), worker, "is ready")
    await stage.start_inside(worker, "loops", 1)
    for why in (first, second):
        assert in_another_thread(partial(worker.process.kill_now, 1, why))
        assert worker.process.killed_for is first
    await stage.wait_until_gone(worker)


@on_both_sides()
async def test_what_was_printed_is_read_at_once_and_nothing_else(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "says much and exits", 1)
    stage.await_exit(worker)

    def looked() -> object:
        before = len(worker.reports.calls)
        worker.process.read_output()
        assert set(worker.reports.calls[before:]) <= {"output"}
        return worker.reports.gone or Pending(worker.reports.calls[-5:])

    await until_async(looked, "it is gone")
    assert worker.reports.output.count(b"\n") >= 3 and worker.reports.kinds(1) == [Kind.ENTERED, *[Kind.TOKEN] * 200]


@on_both_sides()
async def test_of_what_is_ready_no_more_is_read_than_is_asked_for(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "says much and exits", 1)
    stage.await_exit(worker)

    def looked() -> object:
        before = len(worker.reports.output)
        worker.process.read_ready(7)
        assert len(worker.reports.output) - before <= 7
        return worker.reports.gone or Pending(worker.reports.calls[-5:])

    await until_async(looked, "it is gone")
