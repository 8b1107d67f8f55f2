"""The real supervisor on virtual time: many seeds of everything at once."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support.engines import ENGINE
from support.fake_world import NEVER, Faults, Script
from support.virtual_loop import run

from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused
from sim import seeded_histories
from sim.simulation import Simulation, pool

STEPS = 20

REFUSALS = {
    *("queue_full", "tenant_queue_full", "unknown_job_type", "draining", "deadline_unmeetable", "journal_failed"),
}


def draw_script(dice: random.Random) -> Script:
    """Draw what a job does."""
    ends = ("returns",) * 8 + ("raises", "exits", "dies", "dies", "torn", "garbage", "gap", "enters twice")
    ends += ("closes twice", "closes and stays")
    return Script(
        enter_s=dice.choice((0.0005, 0.001, 0.05, 3.0)),
        enters=dice.random() < 0.95,
        run_s=dice.choice((0.001, 0.02, 0.3, 2.0, 20.0, NEVER)),
        tokens=dice.choice((0, 0, 1, 5)),
        lines=dice.choice((0, 0, 2)),
        end=dice.choice(ends),
        exit_code=dice.choice((0, 1, 64, 70, 78, 137, 143)),
        signal=dice.choice((6, 7, 9, 11, 15)),
        delivery_shows=dice.random() < 0.85,
        replaces=dice.random() < 0.1,
        acknowledge_s=dice.choice((0.0001, 0.0003, 0.01, 0.4, NEVER)),
        swallows=dice.choice((0, 0, 0, 1, 3)),
        cleanup_s=dice.choice((0.0, 0.001, 0.3, 5.0)),
        cleanup_tokens=dice.choice((0, 0, 2)),
        cleanup_returns=dice.random() < 0.3,
        cpu=dice.choice((0.0, 0.01, 1.0, 1.0, 4.0)),
        main_share=dice.choice((1.0, 1.0, 0.0)),
        wakes_per_s=dice.choice((0.0, 0.0, 200.0)),
        dump_s=dice.choice((0.001, 0.001, 0.012, NEVER)),
        dies_s=dice.choice((0.0003,) * 12 + (0.06, 4.0, NEVER)),
        children=dice.choice((0, 0, 0, 2)),
        child_bytes=dice.choice((0, 1 << 28)),
        child_own_bytes=dice.choice((0, 1 << 20, 1 << 28)),
        sweep_s=dice.choice((0.0002, 0.0002, 0.02, 0.5)),
        lingers_s=dice.choice((0.0,) * 8 + (0.5, NEVER)),
        operation=dice.choice(("", "", "kill", "raise")),
        operation_s=dice.choice((0.05, 0.5, NEVER)),
        leaves_s=dice.choice((0.01, 0.3, NEVER)),
        catches=dice.choice(("", "leaves", "stays")),
        grows=dice.choice((0, 0, 0, 1 << 26, 1 << 30)),
        late_frame=dice.random() < 0.2,
    )


def draw_limits(dice: random.Random) -> dict[str, object]:
    limits = {
        "queue_s": dice.choice((None, 0.05, 1.0, 20.0)),
        "start_s": dice.choice((None, 0.02, 5.0)),
        "run_s": dice.choice((None, 0.1, 1.0, 10.0)),
        "first_token_s": dice.choice((None, None, 0.03, 2.0)),
        "idle_s": dice.choice((None, None, 0.02, 1.0)),
        "operation_s": dice.choice(({}, {"load": 0.2}, {"load/download": 0.03}, {"load/download": None})),
        "memory_bytes": dice.choice((None,) * 39 + (1 << 28,)),  # every few ms it is looked at what it holds
        "processes_max": dice.choice((None,) * 59 + (2, 3)),  # so with this
        "threads_max": None,  # and of threads the simulated machine knows only the processes
        "cpu_s": dice.choice((None, None, 0.2, 3.0)),
        "grace_s": dice.choice((0.0, 0.05, 0.5, 2.0, 12.0)),
        "ack_s": dice.choice((None, 0.05, 0.5)),
        "output_bytes": dice.choice((1 << 20, 1 << 20, 20)),
        "total_s": dice.choice((None, None, 0.04, 1.5, 30.0)),
        "attempts_max": dice.choice((1, 2, 4)),
        "backoff_s": dice.choice((0.0, 0.01, 0.5)),
    }
    return {name: value for name, value in limits.items() if dice.random() < 0.6}


def draw_faults(dice: random.Random) -> Faults:
    def sometimes(probability: float) -> float:
        return probability if dice.random() < 0.25 else 0.0

    return Faults(
        fork_fails=sometimes(0.2),
        fork_raises=sometimes(0.1),
        dies_at_start=sometimes(0.2),
        broken_at_start=sometimes(0.2),
        no_cgroup=sometimes(0.3),
        preload_threads=dice.choice((1, 1, 1, 3)),
        status_unknown=0.3,
        fork_report_s=dice.choice((0.001, 0.001, 0.03)),
    )


def draw_pools(dice: random.Random) -> list[PoolSpec]:
    return [
        pool(
            name,
            workers=dice.choice((1, 2, 3)),
            spares=dice.choice((0, 1, 2)),
            jobs_per_worker_max=dice.choice((0, 1, 3)),
        )
        for name in ("a", "b")[: dice.choice((1, 2))]
    ]


class Fuzz:
    """One seed: a history of submissions, cancels and disasters."""

    def __init__(self, seed: int, engine: str = ENGINE) -> None:
        self.dice = dice = random.Random(seed)
        self.sim = Simulation(
            *draw_pools(dice),
            engine=engine,
            seed=seed,
            faults=draw_faults(dice),
            queue_jobs_max=dice.choice((2, 5, 50)),
            queue_bytes_max=dice.choice((300, 1 << 20)),
            tenants=dice.choice(({}, {}, {"ann": {"running_max": 1, "queue_jobs_max": 4}})),
            commit_s=random.Random(f"disk {seed}").choice((None, None, 0.0, 0.0005, 0.02, 3.0)),
            journal_output=seed % 3 == 0,
        )

    async def run(self) -> list[str]:
        async with self.sim:
            for _ in range(STEPS):
                await self.step()
                await asyncio.sleep(self.dice.choice((0.0, 0.0001, 0.002, 0.01, 0.1, 1.0)))
                self.sim.check()
            if self.dice.random() < 0.5:
                await self.end_all()
            await self.sim.close(self.dice.choice((None, 0.0, 0.3)))
            self.sim.check_metrics()
            self.sim.check_shares()
        return self.sim.world.trace

    async def step(self) -> None:
        dice, sim = self.dice, self.sim
        world = sim.world
        match dice.choices(
            ("submit", "cancel", "leave", "zygote", "guard", "stranger", "kill worker", "look", "disk"),
            (12, 7, 1, 0.4, 0.2, 1, 1, 2, 1),
        )[0]:
            case "submit":
                await self.submit()
            case "cancel" if sim.jobs:
                job = dice.choice(sim.jobs[-6:])
                sim.cancel(job, dice.choice((None, None, 0.0, 0.1, 1.0, 30.0)), dice.choice((0.0, 0.05, 3.0)))
            case "leave":  # the caller of a cancel goes away
                for caller in sim.callers:
                    if not caller.done():
                        sim.cancel_caller(caller)
                        break
            case "zygote":
                dice.choice(world.spawners).zygote_dies(signal=dice.choice((9, 11)))
            case "guard":
                dice.choice(world.spawners).guard_dies()
            case "stranger":
                if processes := world.alive():
                    dice.choice(processes).kill_from_outside()
            case "kill worker":
                await self.kill_worker()
            case "look":
                await self.look()
            case "disk" if sim.disk is not None:  # it is full, or has room again
                sim.disk.is_full = not sim.disk.is_full

    async def submit(self) -> None:
        dice = self.dice
        try:
            await self.sim.submit(
                draw_script(dice),
                watched=dice.random() < 0.8,
                kind=f"work-{dice.choice(self.sim.settings.pools).name}",
                limits=draw_limits(dice),
                priority=dice.choice((0, 0, 0, 5)),
                tenant=dice.choice(("ann", "bob")),
                padding=dice.choice((0, 50)),
            )
        except Refused as refused:
            assert refused.code in REFUSALS, refused
            self.sim.world.scripts.pop()

    async def kill_worker(self) -> None:
        workers = await self.sim.supervisor.workers()
        if workers:
            worker = self.dice.choice(workers)
            job = next((job for job in self.sim.jobs if job.id == worker.job_id), None)
            if job is not None:
                self.sim.world.shortened(job.number, self.sim.loop.time())
            try:
                await self.sim.supervisor.kill_worker(worker.worker_id, wait_s=0.0)
            except Refused as refused:
                assert refused.code == "unknown_worker", refused  # it went while they were measured

    async def look(self) -> None:
        before, _ = await self.sim.supervisor.list(limit=1000)
        assert {record.job_id for record in before} == {job.id for job in self.sim.jobs}
        self.sim.check_shares()
        await self.sim.supervisor.ready()
        await self.sim.supervisor.pools()
        counts = await self.sim.supervisor.scraping.counts()
        after, _ = await self.sim.supervisor.list(limit=1000)
        counted = counts["queued"] + counts["running"] + counts["stopping"]
        assert sum(not record.ended for record in after) <= counted <= sum(not record.ended for record in before)
        if self.dice.random() < 0.1:
            await self.sim.supervisor.scraping.exposition(openmetrics=False)

    async def end_all(self) -> None:
        """Every job ends: by itself, or else once it is cancelled."""
        await asyncio.sleep(30)
        for job in self.sim.jobs:
            if not self.sim.record(job).ended:
                self.sim.cancel(job)
        await self.sim.ended(*self.sim.jobs)
        await self.recover()

    async def recover(self) -> None:
        """When nothing goes wrong any more, every pool that has a slot works again."""
        self.sim.world.faults = Faults()
        if self.sim.disk is not None:
            self.sim.disk.is_full = False
        await asyncio.sleep(10)
        for spawner in self.sim.world.spawners:
            if not any(process.stuck for process in spawner.processes.values()):
                job = await self.sim.submit(Script(), kind=f"work-{spawner.spec.name}")
                await self.sim.ended(job)
                assert job.state == "completed", job.end


async def _fuzz(seed: int, engine: str) -> list[str]:
    return await Fuzz(seed, engine).run()


def play(seed: int, engine: str = ENGINE) -> list[str]:
    """Return what happened; a failure says how to see it again."""
    which = "ENGINE=cluster " if engine == "cluster" else ""
    return seeded_histories.play(partial(_fuzz, engine=engine), seed, __file__, which)


@pytest.mark.row("B5")
@pytest.mark.row("B6")
@pytest.mark.row("H10")
@pytest.mark.row("F1")
@seeded_histories.seeds(700, each_test=50)
def test_what_must_hold_holds_in_every_history(seeds: range) -> None:
    for seed in seeds:
        play(seed)


def test_what_must_hold_holds_over_a_head_and_its_node() -> None:
    """A few of the same histories; all with ENGINE=cluster."""
    for seed in range(20):
        play(seed, "cluster")


def test_a_seed_is_one_history_wherever_it_is_played() -> None:
    """In another process, too: nothing comes from a clock, a hash or the names of jobs."""
    seeds = [9, 11, 54]
    histories = [play(seed) for seed in seeds]
    assert all(len(history) > 30 for history in histories)
    assert [play(seed) for seed in seeds] == histories and play(seeds[0] + 1) != histories[0]
    there = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(there) == histories


_ELSEWHERE = (
    "import json, sys; from sim.test_supervisor import play; print(json.dumps([*map(play, map(int, sys.argv[1:]))]))"
)


def test_a_failing_seed_shows_itself_and_fails_again_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation looks at what really happened: a plan that waits longer than it may is found out."""
    monkeypatch.setattr("killable.supervisor.attempts.escalation.DUMP_LATE_S_MAX", 1.0)
    with pytest.raises(AssertionError, match=r"SIGKILL (is overdue|comes too late)") as caught:
        for seed in range(100):
            play(seed)
    assert "the last that happened:" in str(caught.value)
    command = f"KILLABLE_SIM_SEED={seed} pytest tests/sim/test_supervisor.py -k history"
    assert caught.value.__notes__ == ["again: " + ("ENGINE=cluster " if ENGINE == "cluster" else "") + command]
    with pytest.raises(AssertionError) as again:
        play(seed)
    assert str(again.value) == str(caught.value)
    monkeypatch.undo()
    play(seed)  # the control: it is the plan that is wrong, not the seed


def test_nothing_of_the_supervisor_is_replaced() -> None:
    """The simulated side and the clock come in by the constructor; everything between is what a server runs."""

    async def look() -> None:
        async with Simulation() as sim:
            assert type(sim.supervisor) is Supervisor

    run(look())
    for path in (*Path(__file__).parent.glob("*.py"), *(Path(__file__).parents[1] / "support").glob("fake_*.py")):
        assert replacements(path.read_text()) == [], path.name


PLANTED_FAULT = test_a_failing_seed_shows_itself_and_fails_again_the_same.__name__
"""The only one that may: it has to be found out."""


def replacements(text: str) -> list[str]:
    """Return what inherits from something of ours, patches more than the time of day, or stores in a supervisor.

    A simulation may inherit from another one (`sim`).
    """
    module = ast.parse(text)
    simulated = {"Enum"}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sim."):
            simulated |= {each.name for each in node.names}
    module.body = [node for node in module.body if getattr(node, "name", "") != PLANTED_FAULT]
    found = []
    for node in ast.walk(module):
        match node:
            case ast.ClassDef():
                found += [name for name in map(ast.unparse, node.bases) if name not in simulated]
            case ast.Call(args=[ast.Name("time"), *_]):
                pass
            case ast.Call() if any(word in ast.unparse(node.func) for word in ("setattr", "patch")):
                found.append(ast.unparse(node.func))
            case ast.Attribute(ctx=ast.Store()) if "supervisor." in ast.unparse(node):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class Mine(Supervisor): ...", "Supervisor"),
        ("from killable.supervisor.supervisor import Supervisor\nclass Mine(Supervisor): ...", "Supervisor"),
        ("def test_x(monkeypatch):\n    monkeypatch.setattr(Observer, 'on_ended', print)", "monkeypatch.setattr"),
        ("setattr(sim.supervisor, 'x', 1)", "setattr"),
        ("with mock.patch('killable.supervisor.supervisor.Supervisor'): ...", "mock.patch"),
        ("sim.supervisor._observer = None", "sim.supervisor._observer"),
    ],
)
def test_what_is_replaced_is_named(text: str, found: str) -> None:
    assert replacements(text) == [found]
