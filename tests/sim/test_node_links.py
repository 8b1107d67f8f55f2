"""A head and single nodes of it, on virtual time: what is kept of one, and what becomes of it when something is odd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.fake_network import FakeCarrier
from support.virtual_loop import run

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_link import REFUSED_AGAIN_S, NodeLink
from killable.supervisor.cluster.node_pools import MEMBERS_S, NodePools
from killable.supervisor.cluster.node_scaling import Scaling
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


def test_what_is_taken_over_is_claimed_until_its_node_has_understood_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the node tells nothing of it, and keeps its lease."""
    carry, adopts = FakeCarrier.call, 0

    async def call(self: FakeCarrier, node: str, method: str, message: bytes) -> bytes:
        nonlocal adopts
        if method == "adopt":
            adopts += 1
            message = message[:-5] if adopts == 1 else message
        return await carry(self, node, method, message)

    monkeypatch.setattr(FakeCarrier, "call", call)
    run(_claimed())
    assert adopts > 1


async def _claimed() -> None:
    async with journaled_cluster(nodes=1) as sim:
        await sim.submit(run_s=10.0, tokens=5)
        await asyncio.sleep(1)
        sim.kill_head()
        await sim.ended(within_s=60)
    assert sim.counts() == {"completed": 1}


Answer = Callable[[Header], Header]


def _answering(monkeypatch: pytest.MonkeyPatch, change: Answer) -> Callable[[], None]:
    """Have the hellos of one node answered by something else, until the function that is returned is called."""
    carry, is_well = FakeCarrier.call, False

    async def call(self: FakeCarrier, node: str, method: str, message: bytes) -> bytes:
        header, blobs = messages.unpack(answer := await carry(self, node, method, message))
        is_changed = node == "n0001" and method == "hello" and not is_well
        return messages.pack(change(header), blobs) if is_changed else answer

    def be_well() -> None:
        nonlocal is_well
        is_well = True

    monkeypatch.setattr(FakeCarrier, "call", call)
    return be_well


@pytest.mark.parametrize(
    "change",
    [lambda header: {"refused": messages.STALE_EPOCH}, lambda header: {**header, "begun": (1 << 63) - 1}],
    ids=["a refusal without its epoch", "a number after which there is none"],
)
def test_a_node_whose_hello_is_odd_is_used_as_soon_as_it_is_not(
    monkeypatch: pytest.MonkeyPatch, change: Answer
) -> None:
    run(_joins(_answering(monkeypatch, change)))


def test_a_fault_of_the_head_itself_keeps_a_node_away_no_longer_than_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    right, is_well = NodePools.has_settings, False

    def has_settings(self: NodePools, link: NodeLink, told: dict[str, str]) -> bool:
        if link.name == "n0001" and not is_well:
            raise LookupError("a fault")
        return right(self, link, told)

    def be_well() -> None:
        nonlocal is_well
        is_well = True

    monkeypatch.setattr(NodePools, "has_settings", has_settings)
    assert run(_joins(be_well)) == "the server has failed at it: LookupError('a fault')"


async def _joins(be_well: Callable[[], None]) -> str:
    """Return what is told of the node before it has joined."""
    async with ClusterSimulation(nodes=2, workers=1) as sim:
        await asyncio.sleep(3)
        _, node = await sim.head.supervisor.nodes()
        assert node.state == "joining"
        be_well()
        await asyncio.sleep(20)
        for _ in range(2):
            await sim.submit(run_s=1.0)
        await sim.ended(within_s=60)
        assert {runs[0].node for runs in sim.runs.all.values()} == {"n0000", "n0001"}
    return node.detail


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


def test_a_refused_machine_has_its_node_started_anew_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at once, and takes no memory of the machine meanwhile."""
    be_well = _answering(
        monkeypatch, lambda header: header if "refused" in header else {**header, "version": "of another day"}
    )
    run(_refused(be_well))


async def _refused(be_well: Callable[[], None]) -> None:
    async with ClusterSimulation(nodes=2) as sim:
        machine = sim.network.machines["n0001"]
        await asyncio.sleep(600)
        assert 5 < machine.incarnations < 16 and machine.host is None
        _, node = await sim.head.supervisor.nodes()
        assert node.state == "refused" and "of another day" in node.detail
        be_well()
        await asyncio.sleep(REFUSED_AGAIN_S + 1)
        _, node = await sim.head.supervisor.nodes()
        assert node.state == "live"
