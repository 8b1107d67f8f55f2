"""Heads whose clocks are set back and forward, some of them two at once, over nodes that restart, on virtual time.

By hand with more seeds: KILLABLE_SIM_SEEDS=2000 pytest tests/sim/test_clocks_of_heads.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest
from support.fake_network import FakeMachine, Trouble
from support.simulated_process import owner
from support.virtual_loop import run

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.lease import Times
from sim import seeded_histories
from sim.head_histories import HeadHistory, Seen, away_s
from sim.journaled_cluster import journaled_cluster
from sim.seeded_histories import SEED

LEASE_S = 5.0
BEYOND_S = 2.5 * LEASE_S
TIMES = Times(LEASE_S, 1.0, 1.0)
TROUBLES = (Trouble(), Trouble(), Trouble(), *seeded_histories.MESSAGES_LATE)
SETS_S = (0.0, 0.0, 0.001, 0.01, 1.0, 5.0, 60.0, -0.001, -0.01, -1.0, -5.0, -60.0)


class TimeOfDay:
    """Of each head its own."""

    def __init__(self) -> None:
        self.off_s: dict[object, float] = {}
        """By how much the clock of a head is wrong."""
        self.next_off_s: Callable[[], float] = lambda: 0.0

    def __call__(self) -> float:
        head = owner()
        if head is not None and head not in self.off_s:
            self.off_s[head] = self.next_off_s()
        return asyncio.get_running_loop().time() + self.off_s.get(head, 0.0)


class History(HeadHistory):
    nodes = (1, 2, 3, 3, 5)
    steps = 30
    pauses_s = (0.0, 0.001, 0.01, 0.05, 0.3, 1.0, 3.0)
    happens: ClassVar = {
        "submit": 10, "cancel": 2, "head": 1, "trap": 2, "second": 5, "set": 3, "better": 3, "kill": 4, "off": 0.5,
        "cut off": 1, "freeze": 1, "stop": 0.5, "late": 1,
    }  # fmt: skip

    def __init__(self, seed: int, wall: TimeOfDay) -> None:
        super().__init__(seed)
        self.wall = wall

    def prepare(self) -> None:
        dice, sim = self.dice, self.sim
        sim.network.trouble = dice.choice(TROUBLES)
        sim.has_lost_nodes = True
        sim.down_s = lambda: dice.choice(away_s(self.lease_s))
        self.wall.next_off_s = lambda: dice.choice(SETS_S)

    def do(self, what: str, machine: FakeMachine) -> None:
        if what == "set":
            for head in self.wall.off_s:
                if self.dice.random() < 0.5:
                    self.wall.off_s[head] = self.dice.choice(SETS_S)
        elif what == "late":
            machine.late_s = self.dice.choice((0.0, 0.05, 0.5))
        else:
            super().do(what, machine)


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> Seen:
    wall = TimeOfDay()
    monkeypatch.setattr(time, "time", wall)
    return seeded_histories.play(lambda seed: History(seed, wall).run(), seed, __file__)


@seeded_histories.seeds(12, each_test=12)
def test_what_must_hold_holds_in_every_history_of_clocks_that_jump(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, kills, gaps = Counter[str](), Counter[str](), Counter[str]()
    for seed in seeds:
        for sums, each in zip((counts, kills, gaps), play(seed, monkeypatch), strict=True):
            sums += each
    assert SEED or all(counts[end] for end in ("completed", "exception", "cancelled", "node_lost")), counts


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> TimeOfDay:
    wall = TimeOfDay()
    monkeypatch.setattr(time, "time", wall)
    return wall


def test_a_head_whose_clock_is_ahead_takes_no_node_back_from_the_one_that_has_its_journal(wall: TimeOfDay) -> None:
    """Not even one that was restarted, and has forgotten which head is the newer one."""

    async def main() -> None:
        wall.next_off_s = lambda: 60.0
        async with journaled_cluster(nodes=1, times=TIMES) as sim:
            sim.has_lost_nodes = True
            first = sim.head
            await sim.submit(run_s=0.1)
            await sim.ended()
            first.carrier.is_cut_off = True
            wall.next_off_s = lambda: 0.0
            (machine,) = sim.network.machines.values()
            machine.kill()
            await sim.second_head()
            job = await sim.submit(run_s=3.0, tokens=1)
            await asyncio.sleep(1.0)
            first.carrier.is_cut_off = False
            await sim.ended()
            assert job.code is None and len(sim.runs.of(job.id)) == 1 and machine.heads == ["h1"]

    run(main())


@pytest.mark.parametrize("adopts", [True, False], ids=["with a journal of its own", "without a journal"])
def test_what_another_head_has_had_ended_is_lost_and_does_not_run_again(wall: TimeOfDay, *, adopts: bool) -> None:
    """Its node is there as it was and holds it no more: that does not mean that it has never come there."""

    async def main() -> None:
        async with journaled_cluster(nodes=1, times=TIMES) as sim:
            sim.has_lost_nodes = True
            job = await sim.submit(run_s=60.0)
            await asyncio.sleep(1.0)
            sim.down_s = lambda: 1.0
            sim.kill_head()
            (machine,) = sim.network.machines.values()
            assert machine.host is not None
            about = {"epoch": int(time.time() * 1000) + 1, "head": "other", "incarnation": "n0000#1"}
            asked = {"lease_s": LEASE_S, "given": 0, "before": "", "adopts": adopts}
            await machine.host.call("hello", messages.pack(about | asked))
            if adopts:
                await machine.host.call("adopt", messages.pack(about | {"ns": []}))
            await sim.ended()
            assert (job.code, job.end["error"]["fenced"]) == ("node_lost", "told") and machine.incarnations == 1
            assert len(sim.runs.of(job.id)) == 1

    run(main())


def test_a_retry_that_is_not_on_disk_is_not_told_by_a_head_that_another_one_follows(wall: TimeOfDay) -> None:
    """It cannot reach its nodes, nor its journal: the next head has the job, and its next event by the same id."""

    async def main() -> None:
        async with journaled_cluster(nodes=1, times=TIMES) as sim:
            sim.has_lost_nodes = True
            first = sim.head
            job = await sim.submit(run_s=60.0, limits={"attempts_max": 3, "backoff_s": 0.0})
            await asyncio.sleep(1.0)
            first.carrier.is_cut_off = True
            await sim.second_head()
            sim.head.carrier.is_cut_off = True
            (machine,) = sim.network.machines.values()
            machine.turn_off()
            await asyncio.sleep(2 * BEYOND_S)
            assert job.events == 1, "it has started, and no more is told"
            first.kill()  # type: ignore[attr-defined]
            await sim.ended(within_s=60.0)
            assert job.code == "node_lost"
            sim.head.carrier.is_cut_off = False
            machine.turn_on()

    run(main())


SEEDS_THAT_FAILED = (179, 412, 443, 1059)


@pytest.mark.parametrize("seed", SEEDS_THAT_FAILED)
def test_seeds_that_failed_pass(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)
