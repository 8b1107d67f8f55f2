"""The stream of jobs: what counting costs, however many filters its readers have, and who is told its place."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, cast

import pytest
from support.registered_jobs import add, registry
from support.virtual_loop import run

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.records import JobCounts
from killable.supervisor.telemetry.job_watch import BEAT_S, COUNT_SHARE_OF_ALL, PLACES_A_BEAT, JobWatch

FILTERS = 100
COUNT_S = 0.005
"""Of one filter, over ten thousand jobs."""
SECONDS = 60


class Working(Clock):
    """A clock that also goes on by work."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.worked_s = 0.0

    def now(self) -> float:
        return super().now() + self.worked_s


async def share_of_counting(filters: int) -> float:
    """Let readers with so many filters read while jobs come; return which share of a processor counting takes. Each
    reader gets counts of the jobs that have come.
    """
    clock, jobs = Working(), registry(keep_jobs=10_000)

    class SlowRegistry:
        def __getattr__(self, name: str) -> Any:
            return getattr(jobs, name)

        def count(self, wanted: JobFilter) -> JobCounts:
            clock.worked_s += COUNT_S
            return jobs.count(wanted)

    watch = JobWatch(cast("Registry", SlowRegistry()), clock, None, lambda job: job.record("i"), lambda _watching: None)
    told = [0] * filters

    async def read(number: int) -> None:
        async for batch in watch.read(JobFilter.of(state="failed", search=f"job-{number or ''}"), 1, -1):
            told[number] += any(event.name == "counts" for event in batch)

    readers = [asyncio.create_task(read(number)) for number in range(filters)]
    await asyncio.sleep(0.5)
    before = clock.worked_s
    for _ in range(SECONDS):
        watch.note(add(jobs, tenant="nobody's"))
        await asyncio.sleep(1)
    share = (clock.worked_s - before) / SECONDS
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert told[0] and all(told[:9]), "each is counted now and then"
    return share


@pytest.mark.row("A27")
@pytest.mark.parametrize("filters", [1, FILTERS])
def test_counting_for_many_filters_takes_its_share_of_a_processor(filters: int) -> None:
    assert run(share_of_counting(filters)) <= COUNT_SHARE_OF_ALL + COUNT_S * filters / SECONDS


async def places_after(beats: int, waiting: int) -> tuple[set[int], int]:
    """Let one of so many waiting jobs leave the queue; return the places that a reader is told then, and how often."""
    clock, jobs = Clock(asyncio.get_running_loop()), registry(keep_jobs=waiting)
    places = {add(jobs, tenant="ada").id: place for place in range(waiting)}
    watch = JobWatch(
        jobs, clock, None, lambda job: job.record("i", {"position": places[job.id]}), lambda _watching: None
    )
    told: list[dict[str, Any]] = []

    async def read() -> None:
        async for batch in watch.read(JobFilter.of(), 1, -1):
            told.extend(json.loads(event.data) for event in batch if event.name == "job")

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    first = next(iter(places))
    places = {job_id: place - 1 for job_id, place in places.items()}
    job = jobs.get(first)
    job.state = State.STARTING
    watch.note(job)
    await asyncio.sleep(beats * BEAT_S + 0.5)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    waits = [each for each in told if each["job_id"] != first]
    return {each["queue"]["position"] for each in waits}, len(waits)


@pytest.mark.row("A27")
def test_who_waits_is_told_its_place_when_others_leave_the_queue_in_turns() -> None:
    assert run(places_after(beats=4, waiting=50)) == (set(range(49)), 49), "each once"
    many = PLACES_A_BEAT * 2 + 50
    found, told = run(places_after(beats=1, waiting=many))
    assert told == len(found) == PLACES_A_BEAT
    assert run(places_after(beats=4, waiting=many)) == (set(range(many - 1)), many - 1)


async def places_of_two_readers(*, is_told_before: bool) -> tuple[list[int], list[int]]:
    """Let a second reader come around two moves in the queue; return the places that each has of the job that waits."""
    clock, jobs, place = Clock(asyncio.get_running_loop()), registry(), 5
    waits = add(jobs, tenant="ada")
    watch = JobWatch(jobs, clock, None, lambda job: job.record("i", {"position": place}), lambda _watching: None)
    had: tuple[list[int], list[int]] = [], []

    async def read(places: list[int]) -> None:
        async for batch in watch.read(JobFilter.of(), 10, -1):
            for event in batch:
                data = json.loads(event.data)
                found = data["jobs"] if event.name == "jobs" else [data] if event.name == "job" else []
                places += [job["queue"]["position"] for job in found if job["job_id"] == waits.id]

    readers = [asyncio.create_task(read(had[0]))]
    await asyncio.sleep(0.5)
    watch.note(waits)
    await asyncio.sleep(0.5 if is_told_before else 0)
    place = 4 if is_told_before else 5
    readers.append(asyncio.create_task(read(had[1])))
    await asyncio.sleep(0.01)
    place = 5 if is_told_before else 4
    watch.note(add(jobs, tenant="ada"))
    await asyncio.sleep(3 * BEAT_S)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return had


@pytest.mark.row("A27")
def test_no_reader_keeps_a_place_that_it_was_told_between_two_moves() -> None:
    first, second = run(places_of_two_readers(is_told_before=True))
    assert first[0] == first[-1] == 5 and (second[0], second[-1]) == (4, 5), "its list was made between them"
    first, second = run(places_of_two_readers(is_told_before=False))
    assert (second[0], second[-1]) == (5, 4) and first[-1] == 4, "its list has a change that others take later"


async def gone_beyond_the_list() -> tuple[list[str], str]:
    """Let a job that waits start for which a reader's list had no room; return what is told to be gone, and its id."""
    jobs, told = registry(), list[str]()
    old, new = add(jobs, tenant="ada"), add(jobs, tenant="ada")
    watch = JobWatch(jobs, Clock(asyncio.get_running_loop()), None, lambda job: job.record("i"), lambda _: None)

    async def read() -> None:
        async for batch in watch.read(JobFilter.of(state="queued"), 1, -1):
            names = [json.loads(event.data)["jobs"] for event in batch if event.name == "jobs"]
            assert [job["job_id"] for listed in names for job in listed] in ([], [new.id])
            told.extend(json.loads(event.data)["job_id"] for event in batch if event.name == "gone")

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    old.state = State.STARTING
    watch.note(old)
    await asyncio.sleep(0.5)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    return told, old.id


@pytest.mark.row("A27")
def test_who_has_the_rest_of_a_list_from_elsewhere_is_told_what_is_gone_of_it() -> None:
    told, job_id = run(gone_beyond_the_list())
    assert told == [job_id]


async def lists_made(readers: int) -> tuple[int, set[bytes]]:
    """Let so many readers come at once; return how many lists were made, and which they got."""
    jobs, made = registry(), 0
    add(jobs, tenant="ada")

    class CountingRegistry:
        def __getattr__(self, name: str) -> Any:
            return getattr(jobs, name)

        def page(self, wanted: JobFilter, limit: int) -> Any:
            nonlocal made
            made += 1
            return jobs.page(wanted, limit)

    clock = Clock(asyncio.get_running_loop())
    watch = JobWatch(cast("Registry", CountingRegistry()), clock, None, lambda job: job.record("i"), lambda _: None)

    async def first() -> bytes:
        async with aclosing(watch.read(JobFilter.of(), 10, -1)) as stream:
            return (await anext(stream))[0].data

    got = set(await asyncio.gather(*(first() for _ in range(readers))))
    watch.note(add(jobs, tenant="bob"))
    got.add(await first())
    return made, got


@pytest.mark.row("A27")
def test_a_list_is_made_once_for_readers_that_come_at_once_and_anew_after_a_change() -> None:
    made, got = run(lists_made(20))
    assert made == len(got) == 2
