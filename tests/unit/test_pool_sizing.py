"""How many workers to fork: examples, and every small pool there is."""

from __future__ import annotations

import itertools

import pytest

from killable.supervisor.pools.pool_sizing import Occupancy, forks_wanted
from killable.supervisor.pools.worker import WorkerStage


def pool(workers_max: int, spares: int, **numbers: int) -> Occupancy:
    return Occupancy(workers_max, spares, {WorkerStage(stage): number for stage, number in numbers.items()})


STAGES = ("idle", "spawning", "busy", "quarantined")
SMALL = [
    (pool(workers_max, spares, **dict(zip(STAGES, numbers, strict=True))), queued)
    for workers_max, spares, queued, *numbers in itertools.product(
        range(1, 4), range(3), range(5), range(5), range(3), range(4), range(4)
    )
]


@pytest.mark.parametrize(
    ("occupancy", "queued", "forks"),
    [
        (pool(4, 1), 0, 1),
        (pool(4, 0), 0, 0),
        (pool(4, 0), 2, 2),
        (pool(4, 1), 2, 3),
        (pool(4, 1), 100, 5),
        (pool(4, 1, busy=4), 100, 1),
        (pool(4, 1, busy=4, idle=1), 100, 0),
        (pool(4, 1, spawning=2), 2, 1),
        (pool(4, 1, idle=3), 0, 0),
        (pool(4, 1, quarantined=4), 9, 1),
        (pool(2, 1, quarantined=1, busy=1), 0, 1),
    ],
)
def test_a_worker_for_each_job_that_could_start_and_the_spares(occupancy: Occupancy, queued: int, forks: int) -> None:
    assert forks_wanted(occupancy, queued) == forks


def test_a_slot_is_free_only_when_its_tree_is_empty() -> None:
    assert pool(2, 1, idle=1, busy=2).slots_free == 0
    assert pool(2, 1, idle=1, busy=1, quarantined=1).slots_free == 0
    assert pool(2, 1, idle=1, busy=1).slots_free == 1
    assert pool(1, 0, busy=1, quarantined=1).slots_free == 0


def test_a_worker_that_is_kept_for_a_job_holds_a_slot() -> None:
    assert pool(2, 1, reserved=1, busy=1).slots_free == 0


def test_no_small_pool_ever_has_more_workers_than_it_may() -> None:
    for each, queued in SMALL:
        alive = each.idle + each.spawning + each.busy + each.quarantined
        forks = forks_wanted(each, queued)
        assert forks >= 0 and (forks == 0 or alive + forks <= each.workers_max + each.spares), (vars(each), queued)


def test_in_every_small_pool_a_job_that_could_start_gets_a_worker() -> None:
    for each, queued in SMALL:
        if queued and each.slots_free:
            workers = each.idle + each.spawning + forks_wanted(each, queued)
            assert workers >= min(queued, each.slots_free), (vars(each), queued)


def test_a_pool_that_is_as_it_should_be_is_left_alone() -> None:
    """What was decided is not decided again, and a full one wants nothing."""
    for each, queued in SMALL:
        for _ in range(forks_wanted(each, queued)):
            each.add()
        assert forks_wanted(each, queued) == 0, (vars(each), queued)
        assert not each.is_full or forks_wanted(each, 1000) == 0, vars(each)
