"""What is known of jobs, by id and page by page."""

from __future__ import annotations

import asyncio

import pytest
from support.registered_jobs import add, end, registry

from killable.supervisor.jobs import registry as registry_module
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.job_filter import SEARCHES_KEPT, JobFilter
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.wakeup_turns import WAKES_MAX
from killable.supervisor.models import Outcome, Submission, Verdict


def test_a_page_is_stable_while_jobs_come_and_go() -> None:
    jobs = registry(keep_jobs=100)
    entries = [add(jobs) for _ in range(10)]
    page, following = jobs.page(JobFilter(), limit=4, before=None)
    assert [entry.number for entry in page] == [10, 9, 8, 7]
    add(jobs)
    end(jobs, entries[9], 1.0)
    page, following = jobs.page(JobFilter(), limit=4, before=following)
    assert [entry.number for entry in page] == [6, 5, 4, 3]
    page, following = jobs.page(JobFilter(), limit=4, before=following)
    assert [entry.number for entry in page] == [2, 1] and following is None


def test_a_page_shows_what_was_asked_for() -> None:
    jobs = registry()
    add(jobs, state=State.QUEUED)
    add(jobs, state=State.STARTING)
    add(jobs, state=State.SWEEPING, verdict=Verdict("cancelled"))
    end(jobs, add(jobs), 1.0)
    add(jobs, submission=Submission("work", b"", tags={"team": "search"}))

    def numbers(state: str | None = None, type: str | None = None, tag: tuple[str, str] | None = None) -> list[int]:
        return [entry.number for entry in jobs.page(JobFilter(state, type, tag), limit=50)[0]]

    assert numbers("active") == [5, 3, 2, 1]
    assert numbers("queued") == [5, 1] and numbers("running") == [2] and numbers("stopping") == [3]
    assert numbers("completed") == [4] and numbers("failed") == []
    assert numbers(type="work") == [5, 4, 3, 2, 1] and numbers(type="other") == []
    assert numbers(tag=("team", "search")) == [5] and numbers(tag=("team", "ads")) == []


async def test_a_search_takes_turns_and_what_it_has_found_is_known_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "SEARCHED_A_TURN", 1)
    jobs, turns = registry(keep_jobs=100), 0
    entries = [add(jobs, submission=Submission("work", b"", tags={"team": f"T{number}"})) for number in range(20)]
    wanted = JobFilter.of(search="team:t1 WORK")
    searching = asyncio.create_task(jobs.search(wanted))
    while not searching.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= len(entries) // WAKES_MAX
    assert [entry.number for entry in jobs.page(wanted, limit=50)[0]] == [20, *range(19, 10, -1), 2]
    looked = [entry.missing_words for entry in entries]
    monkeypatch.setattr(JobFilter, "missing_words", lambda self, job: job.missing_words[self.words])
    assert jobs.count(wanted).total == 11 and all(len(each) == 1 for each in looked)
    monkeypatch.undo()
    for word in range(3 * SEARCHES_KEPT):
        assert JobFilter.of(search=f"team:t0 w{word}").missing_words(entries[0]) == (f"w{word}",)
    assert len(entries[0].missing_words) <= SEARCHES_KEPT


@pytest.mark.parametrize(("tags_bytes", "turns"), [(0, 5), (4096, 40)])
async def test_a_search_takes_turns_by_what_it_has_to_read(
    tags_bytes: int, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, taken = registry(keep_jobs=1000), []

    class Turns:
        async def turn(self, name: str) -> None:
            taken.append(name)

    monkeypatch.setattr(registry_module, "wakeup_turns", Turns)
    for number in range(1000):
        add(jobs, submission=Submission("work", b"", tags={"team": "t" * tags_bytes, "number": str(number)}))
    await jobs.search(JobFilter.of(search="7"))
    assert turns / 2 <= len(taken) <= turns * 2
    taken.clear()
    await jobs.search(JobFilter.of(search="7"))
    assert len(taken) == 1, "all answers are known"


def test_a_code_is_searched_when_it_is_known() -> None:
    jobs = registry()
    entry, wanted = add(jobs, submission=Submission("work", b"")), JobFilter.of(search="work TIMEOUT")
    assert jobs.page(wanted, limit=50)[0] == []
    entry.verdict = Verdict("timeout.run")
    assert jobs.page(wanted, limit=50)[0] == [entry]


def test_an_ended_job_does_not_keep_its_input() -> None:
    entry = add(registry())
    entry.drop_input()
    assert entry.submission.input == b"" and entry.submission.type == "work"


@pytest.mark.row("B17")
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
