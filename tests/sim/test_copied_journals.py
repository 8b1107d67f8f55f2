"""Heads over copies of one journal: a backup that is restored while the old head lives, or has just died."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.virtual_loop import run

from killable.supervisor.cluster.lease import Times
from killable.supervisor.journal.inspection import backup
from sim.journaled_cluster import journaled_cluster

LEASE_S = 5.0
TIMES = Times(LEASE_S, 1.0, 1.0)


@pytest.mark.parametrize("lives", [True, False], ids=["lives on", "has just died"])
def test_a_head_with_an_older_copy_of_the_journal_of_one_that(*, lives: bool) -> None:
    """is refused by the nodes, which have run what waits in it."""

    async def main() -> None:
        async with journaled_cluster(nodes=2, workers=1, times=TIMES) as sim:
            sim.has_lost_nodes = not lives
            sim.down_s = lambda: LEASE_S / 2
            jobs = [await sim.submit(run_s=1.0) for _ in range(6)]
            copy = sim.copy_of_journal()
            await sim.ended()
            if not lives:
                sim.kill_head()
            other = await sim.head_over(copy)
            await asyncio.sleep(2 * LEASE_S)
            sim.raise_violations()
            assert other is None and sim.runs.starts == 6
            assert all(job.code is None for job in jobs) and len(sim._all_heads) == 2 + (not lives)

    run(main())


def test_a_head_whose_disk_is_full_follows_one_whose_disk_was_full_and_takes_over_what_runs() -> None:
    """Neither could write its epoch: the node has seen a higher one than the journal has."""

    async def main() -> None:
        async with journaled_cluster(nodes=1, times=TIMES) as sim:
            sim.down_s = lambda: 0.2
            job = await sim.submit(run_s=30.0, tokens=3)
            await asyncio.sleep(1.0)
            sim.is_disk_full = True
            for _ in range(3):
                sim.kill_head()
                await asyncio.sleep(4.0)
                assert sim.is_served
            sim.is_disk_full = False
            await sim.ended()
            assert (job.code, job.tokens, sim.runs.starts) == (None, 3, 1) and not sim.gaps
            assert len(sim.heads) == 4

    run(main())


def test_of_two_heads_with_the_same_journal_one_goes_on() -> None:
    """The copy is as new as the journal: its head takes over what runs. The other one can begin no more with it."""

    async def main() -> None:
        async with journaled_cluster(nodes=2, workers=1, times=TIMES) as sim:
            jobs = [await sim.submit(run_s=1.0) for _ in range(6)]
            await asyncio.sleep(0.5)
            first, copy = sim.head, sim.copy_of_journal()
            sim.down_s = lambda: 10 * LEASE_S
            other = await sim.head_over(copy)
            assert other is not None and first.process.is_dead  # type: ignore[attr-defined]
            await asyncio.sleep(LEASE_S)
            assert sim.runs.starts == 6 and all(
                [run.how for run in sim.runs.of(job.id)] == ["returned"] for job in jobs
            )
            again = await sim.head_over(sim.copy_of_journal())
            assert again is None and not other.process.is_dead
            sim.settings = replace(sim.settings, journal=copy)  # clients are told of the other one
            await other.process.do(other.supervisor.shutdown(grace_s=0.0, reason="the clients ask another one"))
            sim.has_lost_nodes = True
            await sim.ended()
            assert sim.counts() == {"completed": 6} and sim.runs.starts == 6

    run(main())


def test_a_backup_that_is_restored_while_the_old_head_lives_is_refused(tmp_path: Path) -> None:
    """It is another file, of another id: of which heads it has is what tells."""

    async def main() -> None:
        async with journaled_cluster(nodes=1, workers=1, times=TIMES) as sim:
            for _ in range(3):
                await sim.submit(run_s=1.0)
            backup(sim.settings.journal, str(tmp_path / "restored"))
            await sim.ended()
            assert await sim.head_over(str(tmp_path / "restored")) is None
            await asyncio.sleep(2 * LEASE_S)
            assert sim.runs.starts == 3 and len(sim.heads) == 2

    run(main())
