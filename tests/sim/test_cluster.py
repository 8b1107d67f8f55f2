"""Heads and nodes on virtual time: a thousand machines at once, and many short histories of everything that may happen.

Nothing of the product is replaced but the way between the machines, the clock, and what a node host hosts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
from support.fake_network import Trouble
from support.fake_node import Run
from support.virtual_loop import run

from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_link import HELLO_S
from killable.supervisor.cluster.node_scaling import Scaling
from killable.supervisor.jobs.job import Job
from sim import seeded_histories
from sim.cluster_simulation import ClusterSimulation
from sim.head_histories import DISASTERS, disaster, job
from sim.seeded_histories import SEED

MACHINES, SLOTS = 1000, 10_000
JOBS = 2 * SLOTS
ROUNDS = int(os.environ.get("KILLABLE_SIM_JOBS", JOBS)) // JOBS
"""By hand a million jobs: KILLABLE_SIM_JOBS=1000000 pytest --timeout=0 tests/sim/test_cluster.py -k thousand -s."""
SHARED = JOBS - SLOTS
"""Turns in which two tenants have jobs that wait: the first one has all slots, and half of the other jobs."""
YOUNG_OBJECTS, PASSES = 50_000, 50
"""Of the garbage collector, which takes a fifth of the time with its defaults. That many jobs are no garbage."""
STEPS = 25
TROUBLES = (Trouble(), *seeded_histories.MESSAGES_LATE)


class Fuzz:
    """One seed: a history of submissions, cancels, and what happens to machines, to heads and to the way between."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        lease_s = dice.choice((2.0, 5.0, 10.0))
        self.sim = ClusterSimulation(
            nodes=dice.choice((1, 2, 3, 5)),
            workers=dice.choice((1, 2, 4)),
            seed=seed,
            times=Times(lease_s, lease_s * dice.choice((0.1, 0.3)), lease_s * 0.2),
            scaling=Scaling(dice.choice((0, 5)), dice.choice((0.0, 0.0, 0.5, 6.0))),
        )

    async def run(self) -> Counter[str]:
        async with self.sim as sim:
            sim.network.trouble = self.dice.choice(TROUBLES)
            sim.has_lost_nodes = sim.network.trouble.lost > 0
            for _ in range(STEPS):
                await self.step()
                await asyncio.sleep(self.dice.choice((0.0, 0.001, 0.05, 0.3, 1.0, 3.0, 8.0)))
                sim.raise_violations()
            await self.heal()
        return sim.counts()

    async def heal(self) -> None:
        sim = self.sim
        sim.network.trouble = Trouble()
        sim.head.carrier.is_cut_off = False
        for machine in sim.network.machines.values():
            machine.recover()
        await asyncio.sleep(60)  # a node that was away is still drained when it is back
        for node in await sim.head.supervisor.nodes():
            await sim.head.supervisor.drain_node(node.name, drains=False)

    async def step(self) -> None:
        dice, sim = self.dice, self.sim
        machine = dice.choice(list(sim.network.machines.values()))
        what = dice.choices(
            ("submit", "cancel", "kill", "off", "cut off", "freeze", "stop", "better", "drain", "head", "way"),
            (14, 4, 1.5, 0.7, 1.5, 1.5, 1, 4, 0.5, 0.7, 0.7),
        )[0]
        if what not in ("submit", "cancel", "better", "drain"):
            sim.has_lost_nodes = True
        match what:
            case "submit":
                for _ in range(dice.choice((1, 3, 8))):
                    await self.submit()
            case "cancel" if sim.jobs:
                await sim.cancel(dice.choice(sim.jobs[-10:]))
            case "better":
                machine.recover()
            case "drain":
                nodes = await sim.head.supervisor.nodes()  # one that has gone is forgotten
                if machine.name in {node.name for node in nodes}:
                    await sim.head.supervisor.drain_node(machine.name, drains=dice.random() < 0.5)
            case "head":
                await self.new_head()
            case "way":
                sim.head.carrier.is_cut_off = not sim.head.carrier.is_cut_off
            case _ if what in DISASTERS:
                disaster(what, machine)

    async def submit(self) -> None:
        wants = job(self.dice)
        nodes = self.dice.choice(({}, {}, {}, {"zone": "a"}, {"zone": "!b"}, {"node": "n0000"}, {"node": "!n0001"}))
        await self.sim.submit(**wants, nodes=nodes)

    async def new_head(self) -> None:
        """The head is killed, or is alone from now on, or goes on beside the new one."""
        self.sim.head.carrier.is_cut_off = self.dice.random() < 0.7
        for machine in self.sim.network.machines.values():  # a head without any node does not start
            machine.recover()
        await self.sim.new_head()


def play(seed: int) -> Counter[str]:
    """Return how many jobs have ended with each code; a failure says how to see it again."""
    return seeded_histories.play(_fuzz, seed, __file__)


async def _fuzz(seed: int) -> Counter[str]:
    return await Fuzz(seed).run()


@seeded_histories.seeds(60, each_test=20)
def test_what_must_hold_on_many_machines_holds_in_every_history(seeds: range) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts += play(seed)
    assert SEED or all(counts[end] > 20 for end in ("completed", "exception", "cancelled", "node_lost")), counts


def test_a_failing_seed_shows_itself_and_fails_again_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation looks at what really runs: a head that counts on the end of a node too early is found out."""
    monkeypatch.setattr(
        "killable.supervisor.cluster.node_link.end_of_node", lambda heard, lease_s: heard + 0.8 * lease_s
    )
    with pytest.raises(
        AssertionError, match=r"node_lost is told, and these run|begins while another one runs"
    ) as caught:
        for seed in range(100):
            play(seed)
    assert caught.value.__notes__ == [f"again: KILLABLE_SIM_SEED={seed} pytest tests/sim/test_cluster.py -k history"]
    with pytest.raises(AssertionError):
        play(seed)
    monkeypatch.undo()
    play(seed)  # the control: it is the head that is wrong, not the seed


def test_a_thousand_machines_of_which_some_go_and_some_come_back() -> None:
    """Every job ends as it ran, in fair turns; what runs on a machine that goes is told as lost, and runs elsewhere."""
    frozen = gc.get_freeze_count()
    try:
        run(_thousand())
    finally:
        gc.collect()  # the thousand nodes
        gc.freeze()  # again all that was imported: else each collection of the tests that follow takes 0.3 s
    assert gc.get_freeze_count() >= frozen / 2  # some of it may have gone meanwhile


async def _thousand() -> None:
    dice = random.Random(31)
    async with ClusterSimulation(nodes=MACHINES, workers=SLOTS // MACHINES, seed=31) as sim:
        collects = gc.get_threshold()
        gc.freeze()  # nor are a thousand nodes
        gc.set_threshold(YOUNG_OBJECTS, PASSES, PASSES)
        try:
            sim.has_lost_nodes = True
            for number in range(ROUNDS):
                if number:
                    await _next_round(sim)
                await _round(sim, dice)
                if ROUNDS > 1:
                    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                    print(f"{(number + 1) * JOBS:9,} jobs, at most {most >> 10} MiB")
        finally:
            gc.unfreeze()  # all there is
            gc.set_threshold(*collects)


async def _next_round(sim: ClusterSimulation) -> None:
    """Nothing is kept of the jobs before, and every machine is there again."""
    sim.forget_jobs()
    gc.collect()
    sim.network.trouble = Trouble()
    await asyncio.sleep(3 * HELLO_S)  # a hello that was lost is given up after that, and said again
    assert await _states(sim) == {"live": MACHINES}


async def _round(sim: ClusterSimulation, dice: random.Random) -> None:
    sim.network.trouble = Trouble(lost=0.0005, doubled=0.005, late=0.005)
    for number in range(JOBS):
        await sim.submit(
            tenant="ann" if number < JOBS - SHARED // 2 else "bob",
            run_s=1.0 + number % 3,
            tokens=number % 10 == 0,
            enter_s=0.0,
            slot_s=0.0,
            limits={"attempts_max": 3, "backoff_s": 0.0},
        )
    gone = dice.sample(list(sim.network.machines.values()), 50)
    for number, machine in enumerate(gone):
        await asyncio.sleep(0.05)
        disasters = (machine.kill, machine.turn_off, partial(machine.freeze, jobs=number % 2 == 0))
        disasters[number % 3]()
        machine.is_cut_off = number % 5 == 0
    await asyncio.sleep(12)  # longer than a lease
    for machine in gone:
        machine.is_off = machine.is_cut_off = False
        machine.thaw()
    await sim.ended()
    assert sim.counts().keys() <= {"completed", "node_lost"}
    assert all(job.tokens for job in sim.jobs if job.code), "what has streamed nothing runs again"
    again = sum(job.attempts > 1 for job in sim.jobs)
    assert 20 < again < 1000, f"{again} jobs had a second attempt"
    _check_turns(sim)


def test_a_node_keeps_nothing_of_jobs_whose_ends_are_told() -> None:
    """Neither of those whose slot was ready at once, or later, or that had none, since their stop came before them."""
    run(_kept())


async def _kept() -> None:
    async with ClusterSimulation(nodes=2, workers=2, keep_jobs=1) as sim:
        for slot_s in (0.0, 0.02):
            for _ in range(100):
                await sim.submit(run_s=0.1, slot_s=slot_s)
        await sim.ended()
        for _ in range(100):
            job = await sim.submit(run_s=5.0)
            assert job is not None
            await sim.cancel(job)
            await asyncio.sleep(0.05)
        await sim.ended()
        assert 10 < 300 - sim.runs.starts < 90
        await asyncio.sleep(60)
        sim.forget_jobs()
        gc.collect()
        kept = sum(isinstance(each, Job) for each in gc.get_objects())
        assert kept < 10, f"{kept} of 300 jobs are in memory"


def _check_turns(sim: ClusterSimulation) -> None:
    """While both tenants have jobs that wait, they have turns one after the other, and each has its own in order."""
    turns = sim.turns()
    first = list({job.number: job for job in turns}.values())
    for tenant in ("ann", "bob"):
        numbers = [job.number for job in first if job.submission.tenant == tenant]
        assert numbers == sorted(numbers), f"the jobs of {tenant} start in another order"
    shared = [job.submission.tenant for job in turns[SLOTS : SLOTS + SHARED]]
    again = [place for place, (one, next) in enumerate(pairwise(shared)) if one == next]
    assert not again, f"at the turns {again[:10]} of {len(shared)} the same tenant is served once more"


def test_turns_are_shared_over_all_nodes_and_a_job_that_waits_for_its_own_blocks_nobody() -> None:
    """Three tenants, of which two have jobs for one half of the machines in front: every slot that is free has a job
    if one fits, and those two have turns.
    """
    run(_pinned())


async def _pinned() -> None:
    async with ClusterSimulation(nodes=20, workers=2) as sim:
        for tenant in ("ann", "bob"):
            for _ in range(100):
                await sim.submit(tenant=tenant, run_s=10.0, nodes={"zone": "a"}, slot_s=0.0)
        for _ in range(100):
            await sim.submit(tenant="cy", run_s=10.0, slot_s=0.0)
        await asyncio.sleep(5.0)
        running = Counter(sim.network.machines[run.node].labels["zone"] for run in _running(sim))
        assert running == {"a": 20, "b": 20}, "what waits for zone a keeps nobody from b"
        await sim.ended()
    turns = [job.submission.tenant for job in sim.turns()]
    zones = {job.id: sim.network.machines[sim.runs.of(job.id)[0].node].labels["zone"] for job in sim.jobs}
    in_a = [job.submission.tenant for job in sim.turns() if zones[job.id] == "a"]
    pinned = Counter(in_a[20:100])
    assert abs(pinned["ann"] - pinned["bob"]) <= 2, pinned
    assert Counter(turns) == {"ann": 100, "bob": 100, "cy": 100}


def _running(sim: ClusterSimulation) -> list[Run]:
    return [run for runs in sim.runs.all.values() for run in runs if run.is_running]


def test_machines_are_asked_for_while_jobs_wait_and_idle_ones_are_given_back_and_taken_again() -> None:
    run(_scaled())


async def _scaled() -> None:
    any_machine: tuple[tuple[str, str], ...] = ()
    async with ClusterSimulation(nodes=6, workers=2, scaling=Scaling(cpus_max=30, idle_s=30.0)) as sim:
        requests = sim.head.carrier.requests
        await asyncio.sleep(5)
        assert requests == [{}], "what an earlier head has asked for is withdrawn"
        assert await _states(sim) == {"live": 6}
        for number in range(20):
            await sim.submit(run_s=8.0, nodes={"zone": "a"} if number >= 16 else {})
        await sim.submit(run_s=8.0, nodes={"node": "n0001"})
        await asyncio.sleep(5)
        assert requests[1:] == [{any_machine: 16, (("zone", "a"),): 4}], "a machine is not asked for by its name"
        for _ in range(40):
            await sim.submit(run_s=8.0)
        await asyncio.sleep(2)
        assert sum(requests[-1].values()) == 30, "no more than the bound"
        assert (await sim.head.supervisor.scraping.counts())["cpus_requested"] == 30
        await sim.ended()
        await asyncio.sleep(5)
        assert requests[-1] == {} and (await sim.head.supervisor.scraping.counts())["cpus_requested"] == 0
        await asyncio.sleep(40)
        assert await _states(sim) == {"live": 1, "released": 5}
        assert sum(machine.host is not None for machine in sim.network.machines.values()) == 1, (
            "their processes are gone"
        )
        began = sim.loop.time()
        for number in range(5):
            await sim.submit(run_s=8.0, nodes={"zone": "b"} if number >= 3 else {})
        await sim.ended()
        assert sim.loop.time() - began < 10
        states = await _states(sim)
        assert states["released"] == 5 - 2 and not sim.has_lost_nodes, "only those that were needed"
        assert sim.counts() == {"completed": 66}


async def _states(sim: ClusterSimulation) -> Counter[str]:
    return Counter(node.state for node in await sim.head.supervisor.nodes())


def test_each_checkpoint_is_what_the_job_has_laid_down_also_if_its_node_is_lost_before_the_next_one_is_told() -> None:
    run(_checkpoints())


async def _checkpoints() -> None:
    """An object, and then a list, whose event is an object around it."""
    size = 100_000
    async with ClusterSimulation(nodes=1) as sim:
        job = await sim.submit(run_s=60.0, checkpoint_bytes=size)
        assert job is not None
        supervisor, seen = sim.head.supervisor, [b""]
        while len(seen) < 3:
            await asyncio.sleep(0.0001)
            if (partial := (await supervisor.get(job.id)).partial) is not None and partial != seen[-1]:
                seen.append(partial)
        assert [(len(each), each[:2]) for each in seen[1:]] == [(size + 12, b'{"'), (size + 4, b'["')]
        batches = [batch async for batch in supervisor.events(job.id, follow=False)]
        first, second = (event.data for batch in batches for event in batch if event.name == "checkpoint")
        assert (first, second) == (seen[1], b'{"value":%s}' % seen[2])
        sim.has_lost_nodes = True
        sim.network.machines["n0000"].kill()
        await sim.ended()
        assert job.code == "node_lost" and (await supervisor.get(job.id)).partial == seen[2]
