"""A head and single nodes of it, on virtual time: what is kept of one, and what becomes of it when something is odd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.virtual_loop import run

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_link import REFUSED_AGAIN_S
from killable.supervisor.cluster.node_pools import MEMBERS_S
from killable.supervisor.cluster.node_scaling import Scaling
from killable.supervisor.records import NodeRecord
from sim.cluster_simulation import ClusterSimulation
from sim.journaled_cluster import journaled_cluster


def test_a_machine_that_is_gone_is_forgotten_by_who_carries_calls_to_it() -> None:
    run(_gone())


async def _gone() -> None:
    async with ClusterSimulation(nodes=2) as sim:
        sim.has_lost_nodes = True
        sim.network.machines["n0001"].turn_off()
        await asyncio.sleep(5)
        assert sim.head.carrier.forgotten == [], "it may come back within its lease"
        await asyncio.sleep(15)
        assert sim.head.carrier.forgotten == ["n0001"] and len(await sim.head.supervisor.nodes()) == 1


def test_a_head_that_ends_waits_for_nobody_who_tells_which_machines_there_are() -> None:
    run(_ends())


async def _ends() -> None:
    async with ClusterSimulation(nodes=2) as sim:
        sim.head.carrier.tells_members.clear()
        await asyncio.sleep(MEMBERS_S + 1)
        async with asyncio.timeout(1):
            await sim.head.close()
        await asyncio.sleep(1)
        assert all(machine.host is None for machine in sim.network.machines.values()), "they were let go"


def test_what_the_autoscaler_is_asked_for_while_the_head_ends_is_withdrawn() -> None:
    run(_withdrawn())


async def _withdrawn() -> None:
    async with ClusterSimulation(nodes=1, workers=1, scaling=Scaling(cpus_max=30)) as sim:
        carrier = sim.head.carrier
        await asyncio.sleep(MEMBERS_S + 1)
        carrier.answers_requests.clear()
        for _ in range(3):
            await sim.submit(run_s=60.0)
        await asyncio.sleep(MEMBERS_S + 1)
        assert sum(carrier.requests[-1].values()) == 3
        closing = asyncio.ensure_future(sim.head.close())
        await asyncio.sleep(1)
        carrier.answers_requests.set()
        await closing
        assert carrier.requests[-1] == {}


def test_what_is_taken_over_is_claimed_until_its_node_has_understood_that() -> None:
    """Until then the node tells nothing of it, and keeps its lease."""
    run(_claimed())


async def _claimed() -> None:
    adopts = 0

    def cut_once(node: str, method: str, message: bytes) -> bytes:
        nonlocal adopts
        adopts += method == "adopt"
        return message[:-5] if (method, adopts) == ("adopt", 1) else message

    async with journaled_cluster(nodes=1) as sim:
        sim.network.on_call = cut_once
        await sim.submit(run_s=10.0, tokens=5)
        await asyncio.sleep(1)
        sim.kill_head()
        await sim.ended(within_s=60)
    assert sim.counts() == {"completed": 1} and adopts > 1


class OddHellos:
    """One node of two, whose hellos are answered by something else, until it is well."""

    def __init__(self, change: Callable[[Header], Header]) -> None:
        self.is_well = False
        self._change = change

    def on_answer(self, node: str, method: str, answer: bytes) -> bytes:
        header, blobs = messages.unpack(answer)
        is_odd = node == "n0001" and method == "hello" and "refused" not in header and not self.is_well
        return messages.pack(self._change(header), blobs) if is_odd else answer


@pytest.mark.parametrize(
    "change",
    [lambda header: {"refused": messages.STALE_EPOCH}, lambda header: {**header, "begun": (1 << 63) - 1}],
    ids=["a refusal without its epoch", "a number after which there is none"],
)
def test_a_node_whose_hello_is_odd_is_used_as_soon_as_it_is_not(change: Callable[[Header], Header]) -> None:
    run(_joins(OddHellos(change)))


async def _joins(hellos: OddHellos) -> None:
    sim = ClusterSimulation(nodes=2, workers=1)
    sim.network.on_answer = hellos.on_answer
    async with sim:
        await asyncio.sleep(3)
        assert (await _odd_node(sim)).state == "joining"
        hellos.is_well = True
        await _is_used(sim)


async def _odd_node(sim: ClusterSimulation) -> NodeRecord:
    _, node = await sim.head.supervisor.nodes()
    return node


async def _is_used(sim: ClusterSimulation) -> None:
    await asyncio.sleep(20)
    for _ in range(2):
        await sim.submit(run_s=1.0)
    await sim.ended(within_s=60)
    assert {runs[0].node for runs in sim.runs.all.values()} == {"n0000", "n0001"}


def test_a_fault_of_the_head_itself_keeps_a_node_away_no_longer_than_it_lasts() -> None:
    run(_faulty())


async def _faulty() -> None:
    def fail(step: str) -> None:
        if step == "hello sent":
            raise LookupError("a fault")

    async with ClusterSimulation(nodes=2, workers=1) as sim:
        sim.has_lost_nodes = True
        sim.head.carrier.on_step = fail
        sim.network.machines["n0001"].kill()
        await asyncio.sleep(20)
        node = await _odd_node(sim)
        assert (node.state, node.detail) == ("lost", "the server has failed at it: LookupError('a fault')")
        sim.head.carrier.on_step = lambda step: None
        await _is_used(sim)


def test_a_cancel_that_is_repeated_costs_nothing_more_unless_it_shortens_the_grace() -> None:
    run(_cancelled())


async def _cancelled() -> None:
    async with ClusterSimulation(nodes=1) as sim:
        supervisor, calls = sim.head.supervisor, sim.head.carrier.calls
        job = await sim.submit(run_s=600.0)
        assert job is not None
        await asyncio.sleep(1)
        (machine,) = sim.network.machines.values()
        machine.freeze(jobs=False)
        before = calls["do"]
        for grace_s, sent in ((None, 1), (None, 1), (0.5, 2), (0.5, 2), (1.0, 2), (None, 2)):
            await supervisor.cancel(job.id, grace_s=grace_s, wait_s=0.0)
            await asyncio.sleep(0.01)
            assert calls["do"] - before == sent
        job.is_cancelled = True
        machine.thaw()


def test_a_refused_machine_has_its_node_started_anew_less_and_less_often() -> None:
    """It ends at once, and takes no memory of the machine meanwhile."""
    run(_refused(OddHellos(lambda header: {**header, "version": "of another day"})))


async def _refused(hellos: OddHellos) -> None:
    sim = ClusterSimulation(nodes=2)
    sim.network.on_answer = hellos.on_answer
    async with sim:
        machine = sim.network.machines["n0001"]
        await asyncio.sleep(600)
        assert 5 < machine.incarnations < 16 and machine.host is None
        node = await _odd_node(sim)
        assert node.state == "refused" and "of another day" in node.detail
        machine.is_cut_off = True
        await asyncio.sleep(3 * REFUSED_AGAIN_S)
        assert (await _odd_node(sim)).detail == node.detail, "that it has no answer then is not why it is refused"
        machine.is_cut_off, hellos.is_well = False, True
        await asyncio.sleep(REFUSED_AGAIN_S + 1)
        assert (await _odd_node(sim)).state == "live"
