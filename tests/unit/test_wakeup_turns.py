"""Who is woken in which turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.registered_jobs import add, registry

from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX, wakeup_turns

CROWD = 50


class Turns:
    """Notes who goes on in which turn of the loop."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self._turn = 0
        self._tasks: list[asyncio.Task[None]] = []

    def waits(self, who: str, until: Callable[[], asyncio.Future[None]] | object) -> None:
        async def wait() -> None:
            await until  # type: ignore[misc]
            self.seen.append((who, self._turn))

        self._tasks.append(asyncio.ensure_future(wait()))

    async def run(self) -> None:
        """Let the loop turn until all have gone on."""
        while len(self.seen) < len(self._tasks):
            self._turn += 1
            await asyncio.sleep(0)

    @property
    def order(self) -> list[str]:
        return [who for who, _ in self.seen]

    @property
    def most(self) -> int:
        """Return how many went on in one turn."""
        turns = [turn for _, turn in self.seen]
        return max(map(turns.count, turns))


def ended(job: Job) -> None:
    job.state = State.COMPLETED
    job.wake()


@pytest.fixture
def jobs() -> tuple[Job, Job]:
    entries = registry()
    return add(entries), add(entries)


async def test_a_crowd_is_woken_by_and_by_and_another_job_does_not_wait_for_it(jobs: tuple[Job, Job]) -> None:
    crowded, other = jobs
    turns = Turns()
    for number in range(CROWD):
        turns.waits("crowd", crowded.end_changed() if number % 2 else crowded.changed())
    turns.waits("other", other.end_changed())
    await asyncio.sleep(0)
    ended(crowded)
    ended(other)
    await turns.run()
    assert turns.order.index("other") <= 2 * WAKES_MAX and turns.most == WAKES_MAX


async def test_who_has_asked_for_the_end_hears_of_it_first(jobs: tuple[Job, Job]) -> None:
    job, _ = jobs
    turns = Turns()
    for _ in range(CROWD):
        turns.waits("reader", job.changed())
        turns.waits("waits", job.end_changed())
    turns.waits("cancels", job.end_changed(is_urgent=True))
    await asyncio.sleep(0)
    ended(job)
    await turns.run()
    assert turns.order == ["cancels", *["waits"] * CROWD, *["reader"] * CROWD]


async def test_an_event_wakes_readers_only(jobs: tuple[Job, Job]) -> None:
    job, _ = jobs
    turns = Turns()
    turns.waits("reader", job.changed())
    turns.waits("waits", job.end_changed())
    await asyncio.sleep(0)
    job.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.order == ["reader"] and len(job.end_waiters) == 1
    ended(job)
    await turns.run()


async def test_while_an_operator_is_answered_readers_wait_and_ends_are_told(jobs: tuple[Job, Job]) -> None:
    job, _ = jobs
    turns, later = Turns(), list[Callable[[], None]]()

    def defer(go_on: Callable[[], None]) -> bool:
        later.append(go_on)
        return True

    wakeup_turns().defer = defer
    turns.waits("reader", job.changed())
    turns.waits("waits", job.end_changed())
    await asyncio.sleep(0)
    ended(job)
    for _ in range(5):
        await asyncio.sleep(0)
    assert turns.order == ["waits"] and len(later) == 1, "asked once"
    wakeup_turns().defer = None
    later[0]()
    await turns.run()
    assert turns.order == ["waits", "reader"]


async def test_who_has_given_up_takes_no_turn(jobs: tuple[Job, Job]) -> None:
    job, _ = jobs
    left = [asyncio.ensure_future(job.end_changed()) for _ in range(CROWD)]
    turns = Turns()
    turns.waits("stays", job.end_changed())
    await asyncio.sleep(0)
    ended(job)
    for each in left[WAKES_MAX:]:
        each.cancel()
    await turns.run()
    await asyncio.gather(*left, return_exceptions=True)
    assert sum(not each.cancelled() for each in left) == WAKES_MAX
    assert turns.seen[0][1] <= 3


async def test_who_has_more_to_read_goes_on_by_turns_also_alone(jobs: tuple[Job, Job]) -> None:
    crowded, other = jobs
    turns = Turns()
    for _ in range(CROWD):
        turns.waits("crowd", wakeup_turns().turn(crowded.id))
    turns.waits("other", wakeup_turns().turn(other.id))
    await turns.run()
    assert turns.order.index("other") <= 2 * WAKES_MAX and turns.most <= 2 * WAKES_MAX
    for _ in range(CROWD):
        await wakeup_turns().turn(other.id)
