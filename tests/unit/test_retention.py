"""What is kept of ended jobs, for how long, and what is said of those that are not."""

from __future__ import annotations

import asyncio
import math

import pytest
from support.registered_jobs import add, end, ids, registry
from support.virtual_loop import run

from killable.supervisor.clock import Clock
from killable.supervisor.jobs import idempotency, retention
from killable.supervisor.jobs.job import EVENT_BYTES, Job
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.jobs.retention import JOB_BYTES
from killable.supervisor.models import Outcome, Submission
from killable.workers.errors import Refused


def refusal(jobs: Registry, job_id: str) -> Refused:
    with pytest.raises(Refused) as caught:
        jobs.get(job_id)
    assert caught.value.code == "unknown_job" and caught.value.job_id == job_id
    return caught.value


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
    jobs = registry(keep_jobs=10_000, keep_bytes=10 * (JOB_BYTES + 100 + EVENT_BYTES))
    for moment in range(1000):
        end(jobs, add(jobs, result=b"r" * 50, partial=b"p" * 20), moment, size=30)
    assert ids(jobs) == list(range(1000, 990, -1))


LARGE_TAGS = {f"{number:064}": "x" * 256 for number in range(32)}


@pytest.mark.row("B9")
def test_tags_count_as_bytes() -> None:
    jobs = registry(keep_jobs=10_000, keep_bytes=1 << 20)
    for moment in range(1000):
        end(jobs, add(jobs, submission=Submission("work", b"", tags=LARGE_TAGS)), moment)
    assert len(jobs) < (1 << 20) / (32 * (64 + 256))


def test_the_answers_to_keys_without_jobs_are_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotency, "ALONE_BYTES_MAX", 1 << 20)
    jobs = registry(keep_jobs=1)
    most = 0
    for tags in (LARGE_TAGS, {}):
        for moment in range(1000):
            key = f"{moment} {len(tags)}"
            job = add(jobs, submission=Submission("work", b"", tags=tags, idempotency_key=key))
            jobs.idempotency_keys.note(job, job.record("instance"))
            end(jobs, job, moment)
            most = max(most, jobs.idempotency_keys.count_alone("default"))
        if tags:
            assert most < (1 << 20) / (32 * (64 + 256))
            assert "1.0 MiB for answers" in caplog.records[0].detail  # type: ignore[attr-defined]
    assert most >= 999, "small ones are bounded in number only"
    assert jobs.idempotency_keys.count_alone("default") >= 999


@pytest.mark.row("B9")
def test_a_thousand_ended_jobs_are_bounded_in_age() -> None:
    jobs = registry(keep_jobs=10_000, keep_s=5.0)
    for moment in range(1000):
        end(jobs, add(jobs), moment)
    assert ids(jobs) == list(range(1000, 995, -1))
    jobs.retention.expire(1003.5)
    assert ids(jobs) == [1000]
    jobs.retention.expire(1004.0)
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
    jobs.retention.expire(1e9)
    assert ids(jobs) == [4, 3, 2, 1]
    assert jobs.active() == live


def test_the_jobs_that_are_not_over_are_found_without_a_look_at_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = registry(keep_jobs=1000)
    live = [add(jobs, state=state) for state in (State.QUEUED, State.RUNNING)]
    for moment in range(500):
        end(jobs, add(jobs), moment)
    jobs.withdraw(add(jobs, state=State.QUEUED))
    live[1].state = State.COMPLETED  # its end is not noted yet
    looked_at: list[str] = []
    real = Job.is_over.fget
    assert real is not None
    monkeypatch.setattr(Job, "is_over", property(lambda job: looked_at.append(job.id) or real(job)))
    assert jobs.active() == live[:1] and jobs.has_active()
    assert set(looked_at) <= {job.id for job in live}
    end(jobs, live[0], 501)
    assert jobs.active() == [] and not jobs.has_active()


def test_the_newest_ended_job_stays_readable_however_large_it_is_until_its_time_is_over() -> None:
    jobs = registry(keep_bytes=JOB_BYTES, keep_s=60.0)
    end(jobs, add(jobs), 0.0, size=50)
    end(jobs, add(jobs), 1.0, size=5000)
    assert ids(jobs) == [2]
    jobs.retention.expire(60.0)
    assert ids(jobs) == [2]
    jobs.retention.expire(61.0)
    assert ids(jobs) == []


def test_what_is_dropped_is_not_counted_any_more() -> None:
    jobs = registry(keep_bytes=100 + 2 * (JOB_BYTES + EVENT_BYTES))
    for moment in range(50):
        end(jobs, add(jobs), moment, size=60)
    end(jobs, add(jobs), 50.0, size=40)
    assert ids(jobs) == [51, 50]


def test_tracebacks_and_stacks_count_too() -> None:
    jobs = registry(keep_bytes=2 * (JOB_BYTES + EVENT_BYTES) + 300)
    failed = Outcome("failed", "exception", "m", {"traceback": "t" * 100})
    for moment in range(10):
        end(jobs, add(jobs, outcome=failed, certificate={"stack": "s" * 51, "exited": 1.0}), moment)
    assert ids(jobs) == [10]


def test_what_a_job_costs_later_does_not_spoil_the_account() -> None:
    jobs = registry(keep_bytes=2 * (JOB_BYTES + EVENT_BYTES))
    for moment in range(10):
        entry = add(jobs)
        end(jobs, entry, moment)
        entry.result = b"r" * 50_000  # counted when it ended, and not again when it goes
    assert ids(jobs) == [10, 9]


@pytest.mark.row("B9")
def test_a_job_goes_when_its_time_is_over_though_nothing_else_happens() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        jobs = registry(keep_jobs=2, keep_s=60.0)
        end(jobs, add(jobs), loop.time())
        jobs.retention.start(Clock(loop))
        for _ in range(3):
            await asyncio.sleep(10)
            end(jobs, add(jobs), loop.time())
        assert ids(jobs) == [4, 3]  # the timer was set for one that has gone
        await asyncio.sleep(49)
        assert ids(jobs) == [4, 3]
        await asyncio.sleep(2)
        assert ids(jobs) == [4]
        await asyncio.sleep(10)
        assert ids(jobs) == []
        end(jobs, add(jobs), loop.time())
        await asyncio.sleep(59)
        assert ids(jobs) == [5]
        await asyncio.sleep(2)
        assert ids(jobs) == []

    run(main())


def test_there_is_one_timer_and_none_after_the_close() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        jobs = registry(keep_s=60.0)
        jobs.retention.start(Clock(loop))
        for _ in range(5):
            end(jobs, add(jobs), loop.time())
        assert len(loop.timers()) == 1  # type: ignore[attr-defined]
        jobs.retention.close()
        end(jobs, add(jobs), loop.time())
        assert not loop.timers()  # type: ignore[attr-defined]

    run(main())


def test_without_an_age_no_timer_runs() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        jobs = registry(keep_s=math.inf)
        jobs.retention.start(Clock(loop))
        end(jobs, add(jobs), loop.time())
        assert not loop.timers()  # type: ignore[attr-defined]

    run(main())


@pytest.mark.parametrize(
    ("bound", "limits", "limit"),
    [
        ("keep_jobs", {"keep_jobs": 1}, "1"),
        ("keep_bytes", {"keep_bytes": JOB_BYTES}, str(JOB_BYTES)),
        ("keep_s", {"keep_s": 0.5}, "0.5"),
    ],
)
def test_the_refusal_says_when_it_ended_which_bound_dropped_it_and_what_to_raise(
    bound: str, limits: dict[str, float], limit: str
) -> None:
    jobs = registry(**limits)  # type: ignore[arg-type]
    end(jobs, add(jobs, ended_at="2026-11-26T20:46:06.123Z"), 0.0, state=State.FAILED)
    end(jobs, add(jobs), 1.0)
    refused = refusal(jobs, "job-1")
    assert refused.facts == {
        "job_id": "job-1", "state": "failed", "ended_at": "2026-11-26T20:46:06.123Z",
        "dropped_by": bound, "limit": limits[bound],
    }  # fmt: skip
    assert refused.message == (
        f"job job-1 ended failed at 2026-11-26T20:46:06.123Z and is no longer kept, because of {bound} = {limit}; "
        f"to keep jobs longer raise {bound} under [server] in killable.toml"
    )


def test_of_a_job_that_never_was_nothing_is_said() -> None:
    refused = refusal(registry(), "job-7")
    assert refused.facts == {"job_id": "job-7"} and "it never existed" in refused.message


def test_what_is_known_of_dropped_jobs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DROPPED_MAX", 10)
    jobs = registry(keep_jobs=1)
    for moment in range(100):
        end(jobs, add(jobs), moment)
    told = [number for number in range(1, 100) if "dropped_by" in refusal(jobs, f"job-{number}").facts]
    assert told == list(range(90, 100))
