"""What a node tells its head: in batches that may be asked for again, none of which is large."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from support.registered_jobs import add, registry

from killable.supervisor.cluster.held_attempt import HeldAttempt
from killable.supervisor.cluster.messages import BATCH_BYTES_MAX, pack, pieces, unpack
from killable.supervisor.cluster.outbox import Outbox
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.models import Outcome


def held(n: int, outbox: Outbox) -> tuple[HeldAttempt, Any]:
    attempt = HeldAttempt(n, outbox.note)
    job = add(registry())
    attempt.use(job)
    return attempt, job


def items_of(batch: bytes) -> list[tuple[dict[str, Any], bytes]]:
    header, blobs = unpack(batch)
    assert sum(map(len, blobs)) <= BATCH_BYTES_MAX
    return list(zip(header["items"], blobs, strict=True))


def test_a_batch_is_the_same_until_it_is_acknowledged() -> None:
    outbox = Outbox()
    attempt, job = held(1, outbox)
    assert not outbox.has_news and outbox.repeated(0) is None
    job.log.append("token", b"1")
    attempt.on_changed(job)
    first = outbox.batch({})
    job.log.append("token", b"2")
    attempt.on_changed(job)
    assert outbox.repeated(0) == first, "what has come meanwhile is in the next one"
    assert outbox.repeated(1) is None and outbox.is_old(2) and not outbox.is_old(1)
    ((item, blob),) = items_of(outbox.batch({}))
    assert (item["at"], EventLog.decode_some(blob)) == (1, [("token", b"2")])
    assert outbox.is_old(0)


def test_the_rest_of_what_is_larger_than_a_batch_is_not_copied_for_each() -> None:
    """48 MiB in one token took minutes."""
    outbox = Outbox()
    attempt, job = held(1, outbox)
    job.log.append("token", b"x" * (100 * BATCH_BYTES_MAX))
    attempt.on_changed(job)
    tracemalloc.start()
    try:
        outbox.batch({})
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        outbox.batch({})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 10 * BATCH_BYTES_MAX


def test_what_is_larger_than_a_batch_goes_in_pieces_and_its_end_is_told_last() -> None:
    outbox = Outbox()
    attempt, job = held(1, outbox)
    large = b"x" * (3 * BATCH_BYTES_MAX)
    job.log.append("token", large)
    job.result = large
    job.outcome, job.state = Outcome("completed"), State.COMPLETED
    attempt.on_changed(job)
    found: dict[str, bytes] = {}
    ack = 0
    while outbox.has_news:
        items = items_of(outbox.batch({}))
        ack += 1
        for item, blob in items:
            found[item["kind"]] = found.get(item["kind"], b"") + blob
    assert EventLog.decode_some(found["events"]) == [("token", large)] and found["result"] == large
    assert list(found) == ["events", "result", "end"] and attempt.is_told and ack > 6


def test_no_attempt_waits_for_another_that_has_more_to_tell() -> None:
    outbox = Outbox()
    many, talkative = held(1, outbox)
    few, quiet = held(2, outbox)
    for _ in range(50):
        talkative.log.append("token", b"x" * 10_000)
    many.on_changed(talkative)
    quiet.log.append("token", b"1")
    few.on_changed(quiet)
    outbox.batch({})
    assert 2 in {item["n"] for item, _ in items_of(outbox.batch({}))}


def test_a_message_is_whole_or_refused() -> None:
    packed = pack({"a": 1}, [b"\nx", b""])
    assert unpack(packed) == ({"a": 1}, [b"\nx", b""])
    for wrong in (packed[:-1], packed + b"y", b"", b"{}"):
        with pytest.raises((ValueError, KeyError)):
            unpack(wrong)
    assert pieces(b"") == [b""] and b"".join(pieces(b"z" * 200_000)) == b"z" * 200_000
