"""A server of one machine asks nobody: what it can do at once is done in the turn of the loop in which it is asked.

A head has to wait for its nodes. None of these waits may come into the calls of a server without nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sim.scenario_helpers import FOREVER, simulate
from sim.simulation import Simulation, pool


def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns; fail if it suspends anywhere."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    call.close()
    raise AssertionError(f"{call.__qualname__} waits for something")


def test_a_server_of_one_machine_takes_starts_shows_and_stops_a_job_within_one_turn() -> None:
    async def main(sim: Simulation) -> None:
        server = sim.supervisor
        running, waiting = at_once(sim.submit(FOREVER)), at_once(sim.submit(FOREVER))
        record = at_once(server.get(running.id))
        assert record.state == "running" and record.pid is not None, "it has a worker, and that has its order"
        assert at_once(server.get(waiting.id)).queue["position"] == 0
        assert at_once(server.cancel(waiting.id, wait_s=0)).state == "cancelled"
        stopped = at_once(server.cancel(running.id, wait_s=0))
        assert stopped.state == "stopping" and stopped.certificate["requested"] == 0
        assert len(at_once(server.list())[0]) == 2
        at_once(server.pools()), at_once(server.job_types()), at_once(server.ready()), at_once(server.retired())
        with pytest.raises(AssertionError, match="sleep waits"):
            at_once(asyncio.sleep(0))  # the control

    simulate(main, pool(), engine="local")
