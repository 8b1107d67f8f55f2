"""Another attempt because the author of the job wants one: after which ends, what of the first is left, and when."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from job_runs import follow, run, submit, wait_for_tokens
from support import processes
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.authoring.retry_on import NEVER_AGAIN
from killable.workers.error_codes import CODES

SUPPORT = Path(processes.__file__).parent
TESTS = str(SUPPORT.parent)
POOL = PoolSpec("p", (str(SUPPORT / "retried_jobs.py"),), 2, env={"PYTHONPATH": TESTS})

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = POOL


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


EVERY_CODE = tuple(code for code, row in CODES.items() if row.state is not None and code not in NEVER_AGAIN)
"""As the job `asks` has them."""
LIMITS: dict[str, dict[str, Any]] = {
    "limit.cpu": {"cpu_s": 0.2},
    "limit.memory": {"memory_bytes": 64 << 20},
    "limit.tmp": {"tmp_bytes": 64 << 10},
    "limit.processes": {"processes_max": 4},
    "limit.threads": {"threads_max": 8},
    "limit.files": {"files_max": 32},
    "timeout.first_token": {"first_token_s": 0.3},
    "timeout.run": {"run_s": 0.3},
}
ENDS = (
    "exception", "exit", "crash", "killed_externally", "protocol", "result.unserializable", "timeout.operation",
    *LIMITS,
)  # fmt: skip
"""Every end that a job can bring about by itself, but for `timeout.idle`, which needs a token."""


@pytest.mark.row("D25")
@pytest.mark.parametrize("how", ENDS)
async def test_an_end_that_the_type_names_is_followed_by_another_attempt(supervisor: StartSupervisor, how: str) -> None:
    running = await supervisor(POOL)
    story = await run(running, "asks", how=how, limits=LIMITS.get(how))
    assert story.record is not None and story.record.result == b'["done",2]', story.end
    assert [name for name in story.names if name != "token"] == ["started", "retrying", "started", "completed"]
    (told,) = story.data("retrying")
    assert told["error"]["code"] == how and (told["attempt"], told["attempts_max"], told["wait_s"]) == (1, 2, 0)
    second = len(story.names) - 1 - story.names[::-1].index("started")
    assert told["first_id"] == second == story.record.first_id, "where the next attempt begins"
    assert told["certificate"]["proof"] or told["certificate"]["cause"] == "", "nothing of the first one is left"


@pytest.mark.row("D25")
@pytest.mark.parametrize("how", ENDS)
async def test_the_same_end_is_final_when_nobody_has_asked(supervisor: StartSupervisor, how: str) -> None:
    running = await supervisor(POOL)
    story = await run(running, "is_silent", how=how, limits=LIMITS.get(how))
    if CODES[how].retryable:
        assert story.state == "completed" and story.names.count("retrying") == 1
    else:
        assert story.code == how and story.names[-1] == story.state and "retrying" not in story.names


async def test_the_table_has_every_end() -> None:
    beside = {"timeout.idle", "timeout.start", "worker_lost", "node_lost", "node_drained"}  # test_retry_after_losses.py
    never_begun = {"spawn"}  # a pool tries three times by itself, and then has no worker for anybody
    assert set(ENDS) | beside | never_begun == set(EVERY_CODE)


@pytest.mark.row("D25")
async def test_another_exception_than_those_named_is_final(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    for how, attempts in (("other exception", 1), ("exception", 2)):
        story = await run(running, "streams", how=how)
        assert story.record is not None and story.record.attempts == attempts
        assert story.state == ("failed" if attempts == 1 else "completed")
    assert story.data("retrying")[0]["error"]["retryable"] is True, "its author says so"


@pytest.mark.row("D25")
async def test_a_stream_is_told_that_what_it_has_is_void(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    for how, code in (("exception", "exception"), ("killed_externally", "killed_externally")):
        story = await run(running, "streams", how=how, times=2)
        assert story.plot == ["started", "token", "retrying"] * 2 + ["started", "token", "completed"]
        assert story.tokens == ["1a ", "1b ", "2a ", "2b ", "3a ", "3b "]
        assert story.record is not None and story.record.tokens == 2 == story.end["tokens"]
        firsts = [told["first_id"] for told in story.data("retrying")]
        assert [story.events[first].name for first in firsts] == ["started", "started"]
        assert story.data("retrying")[1]["error"]["code"] == code
        assert story.record.first_id == firsts[-1]
    silent = await run(running, "streams_silently", how="killed_externally")
    assert silent.code == "killed_externally" and silent.tokens == ["1a "], "its readers would see it twice"


@pytest.mark.row("D25")
async def test_a_retry_says_when_and_its_last_one_is_the_end(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    began = time.time()
    story = await run(running, "raises_retry", after_s=0.4, times=2)
    assert story.record is not None and story.record.result is not None
    attempt, at = json.loads(story.record.result)
    assert attempt == 3 and at - began >= 0.8
    told = story.data("retrying")
    assert [each["wait_s"] for each in told] == [0.4, 0.4], "exactly as it was asked"
    error = told[0]["error"]
    assert (error["code"], error["type"], error["retryable"]) == ("exception", RETRY, True)
    assert "the other side is busy" in error["traceback"], "the cause is in it"
    ended = await run(running, "raises_retry", after_s=None, times=9)
    assert (ended.code, ended.error["type"], ended.names.count("retrying")) == ("exception", RETRY, 4)
    assert ended.error["message"] == f"{RETRY}: not yet" and ended.error["retryable"] is True
    one = await run(running, "raises_retry", after_s=None, times=9, limits={"attempts_max": 1})
    assert one.names == ["started", "failed"]
    for wrong in (-1, 86401):
        wrongly = await run(running, "raises_retry", after_s=wrong, times=9)
        assert (wrongly.error["type"], wrongly.names) == ("ValueError", ["started", "failed"])


RETRY = "killable.workers.authoring.retry.Retry"


@pytest.mark.row("D25")
async def test_a_retry_never_outlives_the_time_of_its_job(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    story = await run(running, "raises_retry", after_s=60, times=9, limits={"total_s": 30})
    assert (story.code, story.names) == ("exception", ["started", "failed"])
    waiting = await run(running, "raises_retry", after_s=0.05, times=9, limits={"total_s": 0.08, "attempts_max": 99})
    assert waiting.state in ("failed", "timed_out") and waiting.record is not None and waiting.record.attempts < 9


@pytest.mark.row("D25")
async def test_a_cancel_while_it_waits_ends_it_at_once(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    job_id = await submit(running, "raises_retry", after_s=3600, times=9)
    await until_retrying(running, job_id)
    began = time.monotonic()
    record = await running.cancel(job_id)
    assert record.state == "cancelled" and time.monotonic() - began < 1
    assert (await follow(running, job_id)).names == ["started", "retrying", "cancelled"]


async def until_retrying(running: Supervisor, job_id: str) -> None:
    async for batch in running.events(job_id):
        if batch[-1].name == "retrying":
            return


@pytest.mark.row("D25")
@pytest.mark.parametrize("how", ["sleeps", "native"])
async def test_what_a_job_raises_while_it_is_stopped_asks_for_nothing(supervisor: StartSupervisor, how: str) -> None:
    running = await supervisor(POOL)
    timed_out = await run(running, "raises_in_its_grace", how=how)
    assert (timed_out.code, timed_out.names) == ("timeout.run", ["started", "token", "timed_out"])
    job_id = await submit(running, "raises_in_its_grace", how=how, limits={"run_s": 60})
    await wait_for_tokens(running, job_id)
    await running.cancel(job_id)
    assert (await follow(running, job_id)).names == ["started", "token", "cancelled"]


@pytest.mark.row("D25")
async def test_an_attempt_finds_what_the_one_before_has_laid_down(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    for values, kind in ([{"base64": "eA=="}], "bytes"), ([1, {"a": [2]}], "dict"), (["text"], "str"), ([], "NoneType"):
        story = await run(running, "resumes", values=values)
        assert story.record is not None and story.record.result is not None
        before, name, attempt = json.loads(story.record.result)
        assert (name, attempt) == (kind, len(values) + 1)
        assert before == (values[-1] if values else None) or kind == "bytes"
    for size, text in ((3 << 20, ""), (40 << 20, "x" * (2 << 20))):
        story = await run(running, "resumes_large", size=size, text=text)
        assert story.record is not None and json.loads(story.record.result or b"") == ["bytes", size, 1, len(text)]


@pytest.mark.row("D25")
async def test_checkpoints_of_one_job_are_not_found_by_the_next(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL._replace(workers=1, jobs_per_worker_max=0))
    await run(running, "resumes", values=[1])
    story = await run(running, "resumes", values=[])
    assert story.record is not None and json.loads(story.record.result or b"")[0] is None


async def test_a_submission_may_set_how_often(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    story = await run(running, "asks", how="exception", limits={"attempts_max": 1})
    assert (story.code, story.names) == ("exception", ["started", "failed"])
    (asks,) = [each for each in await running.job_types() if each.name == "asks"]
    assert asks.retry_on == ("ConnectionError", *EVERY_CODE) and asks.limits["attempts_max"] == 2
    (default,) = [each for each in await running.job_types() if each.name == "raises_in_its_grace"]
    assert (default.retry_on, default.limits["attempts_max"]) == (("Exception",), 3)


async def test_many_that_fail_together_come_back_apart(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    body = json.dumps({"how": "exception"}).encode()
    limits = {"backoff_s": 0.4}
    records = [await running.submit(Submission("asks", body, limits=limits)) for _ in range(6)]
    stories = await asyncio.gather(*(follow(running, each.job_id) for each in records))
    waits = sorted(story.data("retrying")[0]["wait_s"] for story in stories)
    assert waits[0] >= 0.2 and waits[-1] <= 0.4 and len(set(waits)) == 6
