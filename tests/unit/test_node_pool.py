"""One pool over all nodes: which node a job with a selector gets, and what that costs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import killable.supervisor
from killable.supervisor.cluster.node_pool import LINES_MAX, NodePool, NodeShare, NodeSlot
from killable.supervisor.jobs.job_queue import JobQueue, Selected
from killable.supervisor.settings import PoolSpec

PRODUCT = str(Path(killable.supervisor.__file__).parent)
TOLD = {"state": "ready", "slots": 2, "quarantined": 0, "detail": "", "proof": "", "is_warm": True}


class Nodes:
    """A pool over nodes, with its queue; implements `NodePoolOwner`."""

    def __init__(self, labels: dict[str, dict[str, str]]) -> None:
        self.pool = NodePool(PoolSpec(name="p", modules=("jobs",), workers=2), self, packs=False)
        self.queue = JobQueue(10_000, 1)
        self.running: Counter[str] = Counter()
        owner: Any = SimpleNamespace(job_queue=self.queue, on_worker_available=lambda pool: None)
        self.pool.use(owner)
        for name, each in labels.items():
            self.join(name, each)

    def join(self, name: str, labels: dict[str, str]) -> None:
        self.pool.join(NodeShare(name, "1", {**labels, "node": name}))
        self.pool.tell(name, TOLD)
        self.pool.set_open(name, is_open=True)

    def running_on(self, node: str) -> int:
        return self.running[node]

    def on_load(self, node: str) -> None:
        self.pool.note(node)

    def on_short(self) -> None: ...

    def why_no_node(self, spec: PoolSpec) -> str:
        return ""

    def has_other(self, spec: PoolSpec, known: Container[str]) -> bool:
        return False

    def now(self) -> float:
        return 0.0

    def take(self, **labels: str) -> NodeSlot | None:
        slot = self.pool.take(tuple(sorted(labels.items())))
        if slot is not None:
            self.running[slot.share.node] += 1
        return slot

    def give_back(self, slot: NodeSlot) -> None:
        self.running[slot.share.node] -= 1
        self.pool.give_back(slot)


ZONES = {name: {"zone": name[0]} for name in ("a1", "a2", "b1")}


def test_a_selector_gets_the_best_of_the_nodes_that_fit_and_no_other() -> None:
    nodes = Nodes(ZONES)
    taken = [nodes.take(zone="a") for _ in range(5)]
    assert [slot and slot.share.node for slot in taken] == ["a1", "a2", "a1", "a2", None]
    assert nodes.take(zone="!a") is not None and nodes.take(node="a1") is None and nodes.take(zone="c") is None
    slot = taken[1]
    assert slot is not None
    nodes.give_back(slot)
    found = nodes.take(node="in(a1,a2)")
    assert found is not None and found.share.node == "a2"


def test_a_line_is_opened_when_a_node_that_fits_it_has_a_slot_again_or_joins_or_is_no_longer_drained() -> None:
    nodes = Nodes(ZONES)
    slots = [nodes.take(zone="a") for _ in range(4)]
    for number in range(5):
        pin(nodes, f"{number}", zone="a")
    assert dispatch(nodes) == []
    other = nodes.take(zone="b")
    slot = slots[0]
    assert slot is not None and other is not None
    nodes.give_back(other)
    assert dispatch(nodes) == [], "it fits none"
    nodes.give_back(slot)
    assert dispatch(nodes) == ["0"]
    nodes.join("a3", {"zone": "a"})
    assert dispatch(nodes) == ["1", "2"]
    nodes.pool.set_open("a2", is_open=False)
    slot = slots[1]
    assert slot is not None and slot.share.node == "a2"
    nodes.give_back(slot)
    assert dispatch(nodes) == []
    nodes.pool.set_open("a2", is_open=True)
    assert dispatch(nodes) == ["3"]


def test_a_node_that_comes_back_with_other_labels_fits_other_selectors() -> None:
    nodes = Nodes(ZONES)
    assert nodes.take(zone="b") is not None
    nodes.join("b1", {"zone": "a"})
    assert nodes.take(zone="b") is None
    assert {slot.share.node for _ in range(6) if (slot := nodes.take(zone="a"))} == {"a1", "a2", "b1"}


def test_selectors_of_which_no_job_waits_are_forgotten_and_the_others_are_not() -> None:
    nodes = Nodes(ZONES)
    for number in range(1000):
        nodes.queue.push(
            f"j{number}", pool="p", tenant="t", priority=0, input_bytes=0, selected=(("waits", f"{number}"),)
        )
        assert nodes.take(waits=f"{number}") is None
        nodes.take(passes=f"{number}")
    assert {(("waits", f"{number}"),) for number in range(1000)} <= nodes.pool._lines.keys()
    for number in range(1000):
        nodes.queue.remove(f"j{number}")
    for number in range(2 * len(nodes.pool._lines)):
        nodes.take(then=f"{number}")
    assert len(nodes.pool._lines) <= LINES_MAX
    assert all(len(share.lines) <= LINES_MAX for share in nodes.pool._shares.values())


def lines_run(act: Any, *arguments: Any) -> int:
    """Return how many lines of the product an act executes: a measure of time that is the same each time."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PRODUCT):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act(*arguments)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("selected", [{}, {"zone": "a"}, {"node": "n7"}], ids=["any node", "a zone", "one node"])
def test_what_a_job_costs_does_not_grow_with_the_nodes_nor_with_the_jobs_that_wait(selected: dict[str, str]) -> None:
    key: Selected = tuple(sorted(selected.items()))

    def a_job(nodes: Nodes) -> None:
        """It comes, gets a slot, gives it back; the blocked jobs before it are looked at once."""
        nodes.queue.push("job", pool="p", tenant="t", priority=0, input_bytes=0, selected=key)
        nodes.pool.open_lines()
        while (following := nodes.queue.next_selector("p")) != key:
            assert following is not None and nodes.pool.take(following) is None
            nodes.queue.close_line("p", following)
        slot = nodes.take(**selected)
        waiting = nodes.queue.take("p")
        assert slot is not None and waiting is not None and waiting.job_id == "job"
        nodes.give_back(slot)

    costs = []
    for size in (10, 1000):
        nodes = Nodes({f"n{number}": {"zone": "ab"[number % 2]} for number in range(size)})
        for number in range(size):  # of one line, in front of it, that no node fits
            nodes.queue.push(f"{number}", pool="p", tenant="t", priority=1, input_bytes=0, selected=(("zone", "c"),))
        a_job(nodes)  # from here on the selector is known
        a_job(nodes)
        costs.append(lines_run(a_job, nodes))
    assert 0 < costs[1] <= 1.5 * costs[0], costs


def dispatch(nodes: Nodes) -> list[str]:
    """Start what can be, as the dispatcher does; return the jobs in their order."""
    started = []
    nodes.pool.open_lines()
    while (following := nodes.queue.next_selector("p")) is not None:
        slot = nodes.take(**dict(following))
        if slot is not None:
            started.append(nodes.queue.pop("p") or "")
        elif not nodes.pool.pass_over(following):
            break
    return started


def pin(nodes: Nodes, job_id: str, tenant: str = "t", priority: int = 0, **labels: str) -> None:
    selected = tuple(sorted(labels.items()))
    nodes.queue.push(job_id, pool="p", tenant=tenant, priority=priority, input_bytes=0, selected=selected)


def test_what_a_free_slot_costs_does_not_grow_with_the_selectors_that_wait() -> None:
    """One client may send a thousand that fit every node."""
    costs = []
    for size in (10, 1000):
        nodes = Nodes(ZONES)
        slots = [slot for _ in range(6) if (slot := nodes.take())]
        for number in range(size):
            pin(nodes, f"{number}", zone=f"!x{number}")
            assert dispatch(nodes) == []
        nodes.give_back(slots[0])
        started: list[str] = []
        costs.append(lines_run(lambda nodes=nodes, started=started: started.extend(dispatch(nodes))))
        assert started == ["0"]
    assert 0 < costs[1] <= 1.5 * costs[0], costs


def test_of_lines_that_have_a_slot_again_as_many_are_opened_as_there_are_slots_the_first_of_each_tenant() -> None:
    nodes = Nodes(ZONES)
    slots = [slot for _ in range(2) if (slot := nodes.take(node="a1"))]
    for number in range(20):  # the other nodes are free, and none of these jobs may run there
        pin(nodes, f"{number}", "ann", number, node=f"in(a1,x{number})")
        pin(nodes, f"bob{number}", "bob", node=f"in(a1,y{number})")
        pin(nodes, f"cy{number}", "cy", node=f"in(a1,z{number})")
    nodes.queue.hold_back("cy")
    assert dispatch(nodes) == []
    closed = nodes.queue._pools["p"].closed
    assert len(closed) == 40
    for slot in slots:
        nodes.give_back(slot)
    nodes.pool.open_lines()
    assert len(closed) == 36
    assert dispatch(nodes) == ["19", "bob0"]
    assert nodes.take(node="a2") is not None
    nodes.queue.let_go("cy")
    nodes.join("x3", {"zone": "x"})
    assert dispatch(nodes) == ["3"], "the one that waits for it, past all others"


def test_what_a_slot_costs_does_not_grow_with_the_selectors_that_fit_its_node() -> None:
    """Each of a thousand jobs names a subset of the nodes that is busy. A job ends, and the next one gets its slot."""
    costs = []
    for size in (10, 1000):
        nodes = Nodes({f"n{number}": {} for number in range(20)})
        busy = [slot for _ in range(40) if (slot := nodes.take())]
        spare = busy.pop()
        nodes.give_back(spare)  # so that each line is looked at, and closed
        others = sorted({slot.share.node for slot in busy} - {spare.share.node})
        for number in range(size):
            names = ",".join(others[(number + place) % 19] for place in range(0, 12, 3))
            pin(nodes, f"{number}", node=f"in({names},x{number})")
        assert dispatch(nodes) == []
        ended = next(slot for slot in busy if slot.share.node == others[0])

        def turn(nodes: Nodes = nodes, ended: NodeSlot = ended) -> None:
            nodes.give_back(ended)
            assert dispatch(nodes) == ["0"]

        costs.append(lines_run(turn))
    assert 0 < costs[1] <= 1.5 * costs[0], costs
