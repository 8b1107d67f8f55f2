"""What is kept of ended jobs, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from killable.supervisor.eventlog import EventLog
from killable.supervisor.job import JobType, Limits, Outcome, Submission, Verdict
from killable.supervisor.lifecycle import State
from killable.supervisor.registry import EVENT_BYTES, Entry, Registry
from killable.workers.errors import Refused

TYPE = JobType(
    name="work", description="", input_schema={}, pool="p", codec="json", limits=Limits(), caps={}, operations=()
)


def registry(keep_jobs: int = 10, keep_bytes: int = 1 << 30, keep_s: float = 1e9) -> Registry:
    return Registry(keep_jobs=keep_jobs, keep_bytes=keep_bytes, keep_s=keep_s)


def add(jobs: Registry, **fields: object) -> Entry:
    number = jobs.next_number()
    entry = Entry(
        id=f"job-{number}",
        number=number,
        type=TYPE,
        submission=Submission("work", b"input"),
        limits=Limits(),
        log=EventLog(1 << 20),
        created_at="",
        created=0.0,
    )
    for name, value in fields.items():
        setattr(entry, name, value)
    jobs.add(entry)
    return entry


def end(jobs: Registry, entry: Entry, now: float, size: int = 0, state: State = State.COMPLETED) -> None:
    entry.log.append("completed", b"x" * size)
    entry.state, entry.ended = state, now
    jobs.note_end(entry, now)


def ids(jobs: Registry) -> list[int]:
    found, _ = jobs.page(state=None, type=None, tag=None, limit=10_000, before=None)
    return [entry.number for entry in found]


@pytest.mark.row("B9")
def test_a_thousand_ended_jobs_are_bounded_in_number() -> None:
    jobs = registry(keep_jobs=10)
    for moment in range(1000):
        end(jobs, add(jobs), moment)
    assert ids(jobs) == list(range(1000, 990, -1)) and len(jobs) == 10
    with pytest.raises(Refused) as caught:
        jobs.get("job-990")
    assert (caught.value.code, caught.value.job_id) == ("unknown_job", "job-990")


@pytest.mark.row("B9")
def test_a_thousand_ended_jobs_are_bounded_in_bytes() -> None:
    jobs = registry(keep_jobs=10_000, keep_bytes=10 * (100 + EVENT_BYTES))
    for moment in range(1000):
        end(jobs, add(jobs, result=b"r" * 50, partial=b"p" * 20), moment, size=30)
    assert ids(jobs) == list(range(1000, 990, -1))


@pytest.mark.row("B9")
def test_a_thousand_ended_jobs_are_bounded_in_age() -> None:
    jobs = registry(keep_jobs=10_000, keep_s=5.0)
    for moment in range(1000):
        end(jobs, add(jobs), moment)
    assert ids(jobs) == list(range(1000, 995, -1))
    jobs.expire(1003.5)
    assert ids(jobs) == [1000]
    jobs.expire(1004.0)
    assert ids(jobs) == []


def test_the_longest_ended_goes_first_not_the_longest_known() -> None:
    jobs = registry(keep_jobs=2)
    first, second, third = add(jobs), add(jobs), add(jobs)
    end(jobs, third, 1.0)
    end(jobs, first, 2.0)
    end(jobs, second, 3.0)
    assert ids(jobs) == [2, 1]


def test_live_jobs_are_never_dropped() -> None:
    jobs = registry(keep_jobs=0, keep_bytes=0, keep_s=0)
    live = [add(jobs, state=state) for state in (State.QUEUED, State.RUNNING, State.KILLING, State.SWEEPING)]
    for moment in range(100):
        end(jobs, add(jobs), moment)
    jobs.expire(1e9)
    assert ids(jobs) == [4, 3, 2, 1]
    assert jobs.active() == live


def test_the_newest_ended_job_stays_readable_however_large_it_is_until_its_time_is_over() -> None:
    jobs = registry(keep_bytes=100, keep_s=60.0)
    end(jobs, add(jobs), 0.0, size=50)
    end(jobs, add(jobs), 1.0, size=5000)
    assert ids(jobs) == [2]
    jobs.expire(60.0)
    assert ids(jobs) == [2]
    jobs.expire(61.0)
    assert ids(jobs) == []


def test_what_is_dropped_is_not_counted_any_more() -> None:
    jobs = registry(keep_bytes=100 + 2 * EVENT_BYTES)
    for moment in range(50):
        end(jobs, add(jobs), moment, size=60)
    end(jobs, add(jobs), 50.0, size=40)
    assert ids(jobs) == [51, 50]


def test_a_page_is_stable_while_jobs_come_and_go() -> None:
    jobs = registry(keep_jobs=100)
    entries = [add(jobs) for _ in range(10)]
    page, following = jobs.page(state=None, type=None, tag=None, limit=4, before=None)
    assert [entry.number for entry in page] == [10, 9, 8, 7]
    add(jobs)
    end(jobs, entries[9], 1.0)
    page, following = jobs.page(state=None, type=None, tag=None, limit=4, before=following)
    assert [entry.number for entry in page] == [6, 5, 4, 3]
    page, following = jobs.page(state=None, type=None, tag=None, limit=4, before=following)
    assert [entry.number for entry in page] == [2, 1] and following is None


def test_a_page_shows_what_was_asked_for() -> None:
    jobs = registry()
    add(jobs, state=State.QUEUED)
    add(jobs, state=State.STARTING)
    add(jobs, state=State.SWEEPING, verdict=Verdict("cancelled"))
    end(jobs, add(jobs), 1.0)
    add(jobs, submission=Submission("work", b"", tags={"team": "search"}))

    def numbers(state: str | None = None, type: str | None = None, tag: tuple[str, str] | None = None) -> list[int]:
        return [entry.number for entry in jobs.page(state=state, type=type, tag=tag, limit=50, before=None)[0]]

    assert numbers("active") == [5, 3, 2, 1]
    assert numbers("queued") == [5, 1] and numbers("running") == [2] and numbers("stopping") == [3]
    assert numbers("completed") == [4] and numbers("failed") == []
    assert numbers(type="work") == [5, 4, 3, 2, 1] and numbers(type="other") == []
    assert numbers(tag=("team", "search")) == [5] and numbers(tag=("team", "ads")) == []


def test_an_ended_job_does_not_keep_its_input() -> None:
    entry = add(registry())
    entry.forget_input()
    assert entry.submission.input == b"" and entry.submission.type == "work"


def test_the_last_progress_and_checkpoint_are_remembered_and_all_are_bounded_events() -> None:
    entry = add(registry(), log=EventLog(30))
    assert entry.note_progress(b'{"done":1}') and entry.note_checkpoint(b'{"step":1}')
    assert (entry.progress, entry.partial) == ({"done": 1}, b'{"step":1}')
    assert not entry.note_progress(b'{"done": 2, "total": 3}')
    assert [event.name for event in entry.log.read(-1, 9)] == ["progress", "checkpoint"]
    with pytest.raises(ValueError, match="Expecting"):
        entry.note_progress(b"nonsense")


def test_the_record_tells_the_error_with_its_retryable_flag() -> None:
    entry = add(registry(), state=State.FAILED, outcome=Outcome("failed", "spawn", "m", {"errno": 11}))
    record = entry.record("instance")
    assert record.error == {"code": "spawn", "message": "m", "retryable": True, "errno": 11}
    assert (record.ended, record.state, record.attempt, record.attempts) == (True, "failed", 1, 0)


async def test_all_that_wait_are_woken_and_a_waiter_that_leaves_is_forgotten() -> None:
    entry = add(registry())
    waiting = [asyncio.create_task(entry.changed()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(*waiting[:1], return_exceptions=True)
    assert len(entry.waiters) == 2
    entry.wake()
    await asyncio.gather(*waiting[1:])
    assert entry.waiters == []
