"""How many workers to fork: examples, and every small pool there is."""

from __future__ import annotations

import itertools

import pytest

from killable.supervisor.pools.pool_sizing import Occupancy, forks_wanted


def pool(workers_max: int, spares: int, **numbers: int) -> Occupancy:
    none = dict.fromkeys(("idle", "spawning", "busy", "quarantined", "queued"), 0)
    return Occupancy(workers_max, spares, **(none | numbers))


SMALL = [
    Occupancy(*numbers)
    for numbers in itertools.product(range(1, 4), range(3), range(5), range(3), range(4), range(4), range(5))
]


@pytest.mark.parametrize(
    ("occupancy", "forks"),
    [
        (pool(4, 1), 1),
        (pool(4, 0), 0),
        (pool(4, 0, queued=2), 2),
        (pool(4, 1, queued=2), 3),
        (pool(4, 1, queued=100), 5),
        (pool(4, 1, queued=100, busy=4), 1),
        (pool(4, 1, queued=100, busy=4, idle=1), 0),
        (pool(4, 1, queued=2, spawning=2), 1),
        (pool(4, 1, idle=3), 0),
        (pool(4, 1, quarantined=4, queued=9), 1),
        (pool(2, 1, quarantined=1, busy=1), 1),
    ],
)
def test_a_worker_for_each_job_that_could_start_and_the_spares(occupancy: Occupancy, forks: int) -> None:
    assert forks_wanted(occupancy) == forks


def test_a_slot_is_free_only_when_its_tree_is_empty() -> None:
    assert pool(2, 1, idle=1, busy=2).slots_free == 0
    assert pool(2, 1, idle=1, busy=1, quarantined=1).slots_free == 0
    assert pool(2, 1, idle=1, busy=1).slots_free == 1
    assert pool(1, 0, busy=1, quarantined=1).slots_free == 0


def test_no_small_pool_ever_has_more_workers_than_it_may() -> None:
    for each in SMALL:
        alive = each.idle + each.spawning + each.busy + each.quarantined
        forks = forks_wanted(each)
        assert forks >= 0 and (forks == 0 or alive + forks <= each.workers_max + each.spares), each


def test_in_every_small_pool_a_job_that_could_start_gets_a_worker() -> None:
    for each in SMALL:
        if each.queued and each.slots_free:
            assert each.idle + each.spawning + forks_wanted(each) >= min(each.queued, each.slots_free), each


def test_a_pool_that_is_as_it_should_be_is_left_alone() -> None:
    """What was decided is not decided again."""
    for each in SMALL:
        after = each._replace(spawning=each.spawning + forks_wanted(each))
        assert forks_wanted(after) == 0, (each, after)
