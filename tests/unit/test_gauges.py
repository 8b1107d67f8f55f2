"""How the event loop's lag is measured: what is ready now, and what came meanwhile."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support.registered_jobs import add, registry

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.telemetry.gauges import TENANTS_MAX, Gauges, read_gauges


class NoPools(list[Any]):
    """A supervisor without a pool."""

    def with_workers(self) -> NoPools:
        return self

    def types(self) -> list[Any]:
        return []

    def pool_records(self) -> list[Any]:
        return []


NO_POOLS: Any = NoPools()


class Watch(Clock):
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def work(self, seconds: float) -> None:
        self.time += seconds


async def read(clock: Clock) -> Gauges:
    return await read_gauges(NO_POOLS, JobQueue(1, 1), registry(), clock, sse_clients=2)


@pytest.mark.row("F3")
async def test_the_lag_is_one_whole_turn_of_the_loop() -> None:
    loop, clock = asyncio.get_running_loop(), Watch()
    assert (await read(clock)).loop_lag_s == 0
    loop.call_soon(clock.work, 3.0)  # it is ready before the measurement begins
    assert (await read(clock)).loop_lag_s == 3.0
    reading, writing = socket.socketpair()
    loop.add_reader(reading, lambda: clock.work(float(len(reading.recv(9)))))
    writing.send(b"12345")
    assert (await read(clock)).loop_lag_s == 5.0  # it became ready meanwhile
    loop.remove_reader(reading)
    reading.close()
    writing.close()


@pytest.mark.row("F3")
async def test_active_jobs_are_counted_by_public_state_and_their_tokens_with_them() -> None:
    jobs = registry()
    for state in (State.QUEUED, State.STARTING, State.RUNNING, State.KILLING, State.COMPLETED):
        entry = add(jobs, state=state)
        entry.log.append_output([("token", b"x")] * 2, 2)
    gauges = await read_gauges(NO_POOLS, JobQueue(1, 1), jobs, Watch(), sse_clients=2)
    assert gauges.jobs == {"queued": 1, "running": 2, "stopping": 1}
    assert gauges.live_tokens == 8 and gauges.sse_clients == 2 and gauges.spares == 0


async def test_the_number_of_tenants_in_a_scrape_is_bounded_and_the_busiest_are_there() -> None:
    jobs = registry()
    for number in range(3 * TENANTS_MAX):
        add(jobs, tenant=f"t{number:03}")
    add(jobs, tenant="t299")
    gauges = await read_gauges(NO_POOLS, JobQueue(1, 1), jobs, Watch(), sse_clients=0)
    assert len(gauges.tenants) == TENANTS_MAX
    assert {tenant.tenant: tenant.queued for tenant in gauges.tenants}["t299"] == 2
