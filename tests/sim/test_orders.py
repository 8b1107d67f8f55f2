"""What goes from a head to a node, and in how many messages, on virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
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


def test_an_order_that_cannot_be_sent_ends_its_own_job_and_a_stop_is_sent_without_its_reason() -> None:
    """Whatever it is: nothing else would ever tell of the job."""
    run(_fails())


async def _fails() -> None:
    async with ClusterSimulation(nodes=1, workers=10) as sim:
        sim.has_garbled_messages = True
        carrier, supervisor = sim.head.carrier, sim.head.supervisor
        call = carrier.call

        async def fail(node: str, method: str, message: bytes) -> bytes:
            orders = messages.unpack(message)[0].get("orders", ())
            if any(order["n"] == 3 and order["order"] == "run" for order in orders) or b"odd" in message:
                raise LookupError("a fault")
            return await call(node, method, message)

        carrier.call = fail  # type: ignore[method-assign]
        jobs = [await sim.submit(run_s=60.0 if number == 4 else 1.0) for number in range(5)]
        await asyncio.sleep(2.0)
        _, _, broken, _, stopped = jobs
        assert broken is not None and stopped is not None
        stopped.is_cancelled = True
        await supervisor.cancel(stopped.id, reason="odd", wait_s=0.0)
        await sim.ended(within_s=5.0)
        assert [job.code for job in jobs if job is not None] == [None, None, "protocol", None, "cancelled"]
        assert "its order cannot be sent: LookupError('a fault')" in broken.end["error"]["message"]


@pytest.mark.parametrize("knows", [True, False], ids=["its head knows that", "its head does not"])
def test_a_job_that_ran_on_a_node_that_is_lost_has_not_waited_too_long_for_it(*, knows: bool) -> None:
    """Its order came at once, and the word of that after its `total_s`, or never."""
    run(_ran(knows=knows))


async def _ran(*, knows: bool) -> None:
    async with ClusterSimulation(nodes=1, times=Times(5.0, 1.0, 1.0)) as sim:
        sim.has_lost_nodes = True
        (machine,) = sim.network.machines.values()
        on_answer, hides = sim.network.on_answer, True

        def hide(node: str, method: str, answer: bytes) -> bytes:
            header, blobs = messages.unpack(answer)
            return messages.pack(header) if hides and method == "poll" and blobs else on_answer(node, method, answer)

        sim.network.on_answer = hide
        job = await sim.submit(run_s=60.0, limits={"total_s": 2.0})
        assert job is not None
        await asyncio.sleep(2.5)
        record = await sim.head.supervisor.get(job.id)
        assert (record.state, sim.runs.starts) == ("stopping", 1)
        if knows:
            hides = False
            await asyncio.sleep(1.5)
            assert (await sim.head.supervisor.get(job.id)).state == "running"
        machine.turn_off()
        await sim.ended(within_s=20.0)
        assert job.code == "node_lost"
