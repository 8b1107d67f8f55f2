"""Histories of heads with a journal: they die, follow each other and come back, while machines have their troubles.

Runs in: the test process. The order in which dice are thrown is part of it: a seed that failed stays the same history.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from support.fake_network import FakeMachine, Trouble

from killable.supervisor.cluster.lease import Times
from sim.journaled_cluster import COMMITS_S, STEPS, JournaledCluster, Trap, journaled_cluster

Seen = tuple[Counter[str], Counter[str], Counter[str]]
"""How many jobs have ended with each code; at which steps heads were killed; and why events were left out."""
DISASTERS = ("kill", "off", "cut off", "freeze", "stop")


def away_s(lease_s: float) -> tuple[float, ...]:
    """Return how long a head may be away: within the lease, and beyond it."""
    return 0.0, 0.05, 0.5, 0.7 * lease_s, 1.5 * lease_s


def disaster(what: str, machine: FakeMachine) -> None:
    match what:
        case "kill":
            machine.kill()
        case "off":
            machine.turn_off()
        case "cut off":
            machine.is_cut_off = True
        case "freeze" | "stop":
            machine.freeze(jobs=what == "stop")


def job(dice: random.Random, *, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """Return a job to submit, of one of these kinds."""
    tenant = dice.choice(("ann", "bob"))
    kind = {"kind": dice.choice(kinds)} if kinds else {}
    return kind | {
        "tenant": tenant,
        "run_s": dice.choice((0.01, 0.5, 3.0, 20.0)),
        "tokens": dice.choice((0, 0, 1, 5)),
        "end": dice.choice(("returns", "returns", "returns", "raises")),
        "slot_s": dice.choice((0.0, 0.02)),
        "limits": {"attempts_max": dice.choice((1, 2, 4)), "backoff_s": dice.choice((0.0, 0.5))},
    }


class HeadHistory:
    """One seed."""

    nodes: Sequence[int] = (1, 2, 3, 5)
    steps = 25
    pauses_s: Sequence[float] = (0.0, 0.001, 0.05, 0.3, 1.0, 3.0)
    happens: Mapping[str, float]
    """What a step does, and how often."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.begun: list[asyncio.Task[Any]] = []
        """What waits until a head serves."""

    async def run(self) -> Seen:
        dice = self.dice
        self.lease_s = lease_s = dice.choice((2.0, 5.0, 10.0))
        async with journaled_cluster(
            nodes=dice.choice(self.nodes), workers=dice.choice((1, 2, 4)), seed=self.seed,
            times=Times(lease_s, lease_s * dice.choice((0.1, 0.3)), lease_s * 0.2),
            commit_s=dice.choice(COMMITS_S), journal_output=dice.random() < 0.4,
        ) as sim:  # fmt: skip
            self.sim: JournaledCluster = sim
            self.prepare()
            for _ in range(self.steps):
                self.step()
                await asyncio.sleep(dice.choice(self.pauses_s))
                sim.raise_violations()
            await self.heal()
        return sim.counts(), sim.kills, sim.gaps

    def prepare(self) -> None:
        """Say what becomes of messages, and how long heads are away."""
        raise NotImplementedError

    async def heal(self) -> None:
        sim = self.sim
        sim.trap = None
        sim.is_disk_full = False
        sim.network.trouble = Trouble()
        for machine in sim.network.machines.values():
            machine.late_s = 0.0
            machine.recover()
        await asyncio.gather(*self.begun)

    def step(self) -> None:
        machine = self.dice.choice(list(self.sim.network.machines.values()))
        what = self.dice.choices(list(self.happens), list(self.happens.values()))[0]
        self.do(what, machine)

    def do(self, what: str, machine: FakeMachine) -> None:
        dice, sim = self.dice, self.sim
        match what:
            case "submit":
                for _ in range(dice.choice((1, 3, 8))):
                    self.begin(sim.submit(**job(dice, kinds=("work", "work", "again"))))
            case "cancel" if accepted := [job for job in sim.jobs[-10:] if job.id]:
                self.begin(sim.cancel(dice.choice(accepted)))
            case "head":
                sim.kill_head()
            case "trap":
                sim.trap = Trap(dice.choice(STEPS), dice.choice((1, 1, 2, 5)))
            case "second":
                self.begin(sim.second_head())
            case "better":
                machine.recover()
            case _ if what in DISASTERS:
                sim.has_lost_nodes = True
                disaster(what, machine)

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        self.begun.append(asyncio.create_task(work))
