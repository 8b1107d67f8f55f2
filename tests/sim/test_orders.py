"""What goes from a head to a node, and in how many messages, on virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from support.fake_node import input_of
from support.virtual_loop import run

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.lease import Times
from killable.supervisor.models import Submission
from sim.cluster_simulation import ClusterSimulation


def test_runs_that_begin_together_go_in_one_message_and_a_stop_goes_alone() -> None:
    orders = run(_orders())
    kinds = [[order["order"] for order in each] for each in orders]
    assert sum(map(len, kinds)) == 41 and [kind for kind in kinds if "stop" in kind] == [["stop"]]
    assert len(kinds) < 12, "forty runs of which ten begin together, and a stop"


async def _orders() -> list[list[dict[str, Any]]]:
    """Return the orders of each message."""
    sent: list[list[dict[str, Any]]] = []
    async with ClusterSimulation(nodes=1, workers=10) as sim:
        carrier = sim.head.carrier
        call = carrier.call

        async def note(node: str, method: str, message: bytes) -> bytes:
            if method == "do":
                sent.append(json.loads(message[: message.index(b"\n")])["orders"])
            return await call(node, method, message)

        carrier.call = note  # type: ignore[method-assign]
        jobs = [await sim.submit(run_s=1.0, slot_s=0.0) for _ in range(40)]
        await asyncio.sleep(0.5)
        assert jobs[0] is not None
        await sim.cancel(jobs[0])
        await sim.ended()
    return sent


def test_one_order_that_a_node_does_not_understand_ends_its_own_job_only() -> None:
    run(_misunderstood())


async def _misunderstood() -> None:
    async with ClusterSimulation(nodes=1, workers=10) as sim:
        sim.has_garbled_messages = True
        carrier = sim.head.carrier
        call = carrier.call

        async def change(node: str, method: str, message: bytes) -> bytes:
            header, blobs = messages.unpack(message)
            for order in header.get("orders", ()):
                if order["n"] == 3 and order["order"] == "run":
                    order["attempt"] = -1
            return await call(node, method, messages.pack(header, blobs))

        carrier.call = change  # type: ignore[method-assign]
        jobs = [await sim.submit(run_s=1.0) for _ in range(8)]
        await sim.ended(within_s=60)
    codes = [job.code for job in jobs if job is not None]
    assert codes == [None, None, "protocol", *[None] * 5]
    assert jobs[2] is not None and "attempt: Input should be greater" in jobs[2].end["error"]["message"]


def test_what_a_caller_has_left_is_what_is_left_when_an_order_comes_and_is_over_also_if_none_does() -> None:
    run(_late())


async def _late() -> None:
    """Orders are lost for three seconds."""
    async with ClusterSimulation(nodes=1, times=Times(10.0, 1.0, 0.5)) as sim:
        carrier, supervisor = sim.head.carrier, sim.head.supervisor
        call = carrier.call
        began: set[float] = set()
        sendings = 0
        works_at = sim.loop.time() + 3.0

        async def lose(node: str, method: str, message: bytes) -> bytes:
            nonlocal sendings
            orders = messages.unpack(message)[0]["orders"] if method == "do" else ()
            for order in orders:
                if order["order"] == "run":
                    sendings += 1
                    began.update(round(sim.loop.time() - order[name], 3) for name in ("age_s", "waited_s"))
            if orders and sim.loop.time() < works_at:
                await asyncio.Event().wait()
            return await call(node, method, message)

        carrier.call = lose  # type: ignore[method-assign]
        submitted = [
            await supervisor.submit(Submission("work", input_of(run_s=1.0), limits={"total_s": total_s}))
            for total_s in (2.0, 60.0)
        ]
        await asyncio.sleep(2.1)
        states = [(await supervisor.get(job.job_id)).state for job in submitted]
        assert states == ["stopping", "running"] and not sim.runs.starts
        await asyncio.sleep(5.0)
        over, ran = [await supervisor.get(job.job_id) for job in submitted]
        assert over.error is not None and ran.state == "completed" and sim.runs.starts == 1
        assert over.error["code"] == "timeout.queue" and "total_s of 2 s is over" in over.error["message"]
        assert sendings > 2 and len(began) == 1, "each sending tells how long the job has waited until then"


def test_a_cancel_arrives_whatever_its_reason_is_and_whatever_of_it_the_node_does_not_understand() -> None:
    run(_cancels())


async def _cancels() -> None:
    async with ClusterSimulation(nodes=1) as sim:
        carrier, supervisor = sim.head.carrier, sim.head.supervisor
        call = carrier.call

        async def change(node: str, method: str, message: bytes) -> bytes:
            return await call(node, method, message.replace(b'"reason":"odd"', b'"reason":0'))

        carrier.call = change  # type: ignore[method-assign]
        jobs = [await sim.submit(run_s=60.0) for _ in range(2)]
        await asyncio.sleep(1.0)
        for job, reason in zip(jobs, ("half a character: \ud83d", "odd"), strict=True):
            assert job is not None
            job.is_cancelled = True
            await supervisor.cancel(job.id, reason=reason, wait_s=0.0)
        await sim.ended(within_s=2.0)
    assert [job.code for job in jobs if job is not None] == ["cancelled"] * 2
    reasons = [job.end["certificate"].get("reason", "") for job in jobs if job is not None]
    assert reasons == ["half a character: \ud83d", ""]
