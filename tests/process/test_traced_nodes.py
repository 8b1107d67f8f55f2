"""The trace of a job that ran on a node is made at the head, with the spans that the job has told there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import span_jobs
from support.engines import LASTING, Cluster

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.telemetry.job_trace import JobFacts
from killable.supervisor.telemetry.sampling import sampler_of
from killable.supervisor.telemetry.traced_jobs import TracedJobs

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.facts: list[Any] = []

    def put(self, facts: Any) -> None:
        self.facts.append(facts)


@pytest.mark.parametrize("dies", [False, True])
async def test_a_head_tells_what_a_job_did_on_its_node(dies: bool) -> None:
    kept = Kept()
    observer = TracedJobs(sampler_of("parentbased_traceidratio", 1.0), kept)
    pool = PoolSpec("p", (span_jobs.__file__,), workers=1)
    head = Cluster(("a",), LASTING).head(Settings(pools=(pool,)), observer=observer)
    await head.start()
    try:
        given = json.dumps({"dies": dies}).encode()
        accepted = await head.submit(Submission("with_spans", given, traceparent=PARENT, tracestate="a=b"))
        record = await head.wait(accepted.job_id, 60)
    finally:
        await head.close(grace_s=0)
    (facts,) = kept.facts
    assert isinstance(facts, JobFacts)
    (attempt,) = facts.attempts
    assert (facts.context.trace_id, facts.parent_id, facts.context.state) == (PARENT[3:35], PARENT[36:52], "a=b")
    assert (record.trace_id, attempt.node) == (PARENT[3:35], "a")
    told = [json.loads(payload) for payload in attempt.reported]
    assert [each.get("name", "end") for each in told] == ["first", "end", "second", *([] if dies else ["end"])]
    assert {each["parent"] for each in told if "parent" in each} == {attempt.span_id}
    assert told[0]["attributes"] == {"number": 1}
    assert attempt.code == ("killed_externally" if dies else None) and attempt.certificate["node"] == "a"
    if not dies:
        assert record.result is not None
        assert json.loads(record.result) == f"00-{PARENT[3:35]}-{attempt.span_id}-01"
