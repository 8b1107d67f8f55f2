"""The data of a job's first and last event, and of those between two attempts: decided once, from what is recorded.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from killable.supervisor.jobs.job import Entry
from killable.supervisor.jobs.payloads import RESULT_INLINE_BYTES_MAX
from killable.supervisor.models import Outcome
from killable.workers.protocol.messages import dump_json


def note_start(entry: Entry) -> None:
    """Write the first event. Of an Executor's call nobody reads it."""
    if not entry.is_call:
        entry.log.append("started", started_data(entry))


def note_retry(entry: Entry, outcome: Outcome, wait_s: float) -> None:
    """Write that an attempt has ended, how, and that another one follows."""
    if not entry.is_call:
        entry.log.append("retrying", retry_data(entry, outcome, wait_s))


def note_restored(entry: Entry) -> None:
    """Write that the events before were lost with the server that had them."""
    entry.log.append("restored", dump_json({"job_id": entry.id, "attempt": entry.attempts}))


def note_end(entry: Entry) -> None:
    """Write the last event; nothing comes after it."""
    if not entry.is_call:
        assert entry.outcome is not None
        entry.log.append(entry.outcome.state, terminal_data(entry))
        entry.log.seal()


def started_data(entry: Entry) -> bytes:
    return dump_json(
        {
            "job_id": entry.id,
            "type": entry.type.name,
            "attempt": entry.attempts,
            "worker_id": entry.worker_id,
            "pid": entry.pid,
            "started_at": entry.started_at,
            "correlation_id": entry.submission.correlation_id,
        }
    )


def retry_data(entry: Entry, outcome: Outcome, wait_s: float) -> bytes:
    return dump_json(
        {
            "job_id": entry.id,
            "attempt": entry.attempts,
            "attempts_max": entry.limits.attempts_max,
            "wait_s": round(wait_s, 3),
            "error": outcome.error_json(),
            "certificate": entry.certificate,
        }
    )


def terminal_data(entry: Entry) -> bytes:
    """Return the terminal event's data. Values are spliced in as the JSON that they already are."""
    outcome = entry.outcome
    assert outcome is not None
    members = {
        "job_id": dump_json(entry.id),
        "state": dump_json(outcome.state),
        "result": _value(entry, entry.result, "result"),
        "partial": _value(entry, entry.partial, "partial"),
        "error": dump_json(outcome.error_json()),
        "certificate": dump_json(entry.certificate),
        "tokens": dump_json(entry.log.tokens),
    }
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items()) + b"}"


def _value(entry: Entry, value: bytes | None, name: str) -> bytes:
    if value is None:
        return b"null"
    if entry.type.codec != "json" or len(value) > RESULT_INLINE_BYTES_MAX:
        return dump_json({"$ref": f"/v1/jobs/{entry.id}/{name}"})
    return value
