"""What callers see of a job that has streamed and is run again: clients, joined output, HTTP, the command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.blocking_client import BlockingClient, OneClient
from support.killable_command import Command

from killable import Client, JobFailed, Restarted

JOBS = '''
from collections.abc import Iterator

from killable import Context, Retry, job


@job(retry_on=ConnectionError, backoff_s=0)
def flaky(times: int, ctx: Context) -> Iterator[str]:
    """Stream two words; the connection breaks in the first attempts."""
    yield f"{ctx.attempt}a "
    yield f"{ctx.attempt}b "
    if ctx.attempt <= times:
        raise ConnectionError("reset by peer")


@job(attempts_max=3)
def early(times: int, ctx: Context) -> str:
    """Ask for another attempt before anything is streamed."""
    if ctx.attempt <= times:
        raise Retry("not yet", after_s=0.01)
    return f"attempt {ctx.attempt}"
'''


@pytest.fixture(params=[Client, BlockingClient], ids=["Client", "AsyncClient"])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[OneClient]:
    with request.param(url) as one:
        yield one


def read_all(job: Any) -> tuple[list[Any], list[Restarted]]:
    """Read a job's output as its documentation says."""
    restarts: list[Restarted] = []
    while True:
        tokens: list[Any] = []
        try:
            for token in job:
                tokens.append(token)
            return tokens, restarts
        except Restarted as restarted:
            assert tokens, "there was something to drop"
            restarts.append(restarted)


@pytest.mark.row("D25")
def test_a_client_is_told_to_drop_what_it_has(client: OneClient) -> None:
    job = client.submit("flaky", {"times": 2})
    tokens, restarts = read_all(job)
    assert tokens == ["3a ", "3b "] and [each.attempt for each in restarts] == [1, 2]
    events = list(job.events())
    assert [events[each.first_id].name for each in restarts] == ["started", "started"]
    assert (restarts[0].code, restarts[0].retryable, restarts[0].job_id) == ("restarted", True, job.id)
    assert "ConnectionError: reset by peer" in str(restarts[0])
    assert list(job) == ["3a ", "3b "], "it remembers where the last attempt begins"
    assert job.output() == b"3a 3b ", "joined, it is that of the last attempt alone"
    record = job.record()
    assert (record["tokens"], record["attempts"], record["first_id"]) == (2, 3, restarts[1].first_id)


@pytest.mark.row("D25")
def test_the_last_end_is_raised_as_any_other(client: OneClient) -> None:
    job = client.submit("flaky", {"times": 9})
    with pytest.raises(JobFailed) as caught:
        read_all(job)
    assert (caught.value.code, caught.value.facts["type"]) == ("exception", "ConnectionError")
    quiet = client.submit("early", {"times": 2})
    assert list(quiet) == [] and quiet.result(wait_s=30) == "attempt 3", "nothing was lost, and nothing is said"


@pytest.mark.row("D25")
def test_a_reader_over_http_gets_the_id_of_the_next_attempt(url: str) -> None:
    answer = httpx.post(f"{url}/v1/jobs", json={"type": "flaky", "input": {"times": 1}})
    job_id = answer.json()["job_id"]
    wire = httpx.get(f"{url}/v1/jobs/{job_id}/stream", timeout=60).text
    first = next(block for block in wire.split("\n\n") if "event: retrying" in block)
    assert '"first_id":4' in first and "id: 3\n" in first
    rest = httpx.get(f"{url}/v1/jobs/{job_id}/stream?after=3", timeout=60).text
    assert '"1a ' not in rest and rest.count("event: token") == 2
    assert httpx.get(f"{url}/v1/jobs/{job_id}/output").text == "2a 2b "
    (flaky,) = [each for each in httpx.get(f"{url}/v1/job-types").json()["job_types"] if each["name"] == "flaky"]
    assert (flaky["retry_on"], flaky["limits"]["attempts_max"]) == (["ConnectionError"], 3)


@pytest.mark.row("D25")
def test_the_command_says_that_what_stands_above_is_void(command: Command) -> None:
    done = command.run("submit", "flaky", "-i", "times=1")
    assert (done.returncode, done.stdout) == (0, "1a 1b 2a 2b "), done.stderr
    assert "attempt 1 of 3 failed, exception: ConnectionError: reset by peer; next attempt" in done.stderr
    assert "the output above is void, it begins again" in done.stderr
    assert "completed  2 tokens" in done.stderr.splitlines()[-1]
    early = command.run("submit", "early", "-i", "times=1")
    assert (early.returncode, early.stdout, "void" in early.stderr) == (0, "attempt 2\n", False)
