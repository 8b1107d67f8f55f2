"""A job's full record as JSON.

Runs in: api.
"""

from __future__ import annotations

import json
from typing import Any

from killable.supervisor.jobs.summary import summary_of
from killable.supervisor.records import JobRecord


def record_json(record: JobRecord, result_inline_bytes_max: int, *, shows_input: bool = False) -> dict[str, Any]:
    """Return the members of the full record. `shows_input`: whether the reader may see what is kept of the input."""
    address = f"/v1/jobs/{record.job_id}"
    result = _value(record.result, address + "/result", result_inline_bytes_max)
    partial = _value(record.partial, address + "/partial", result_inline_bytes_max)
    return summary_of(record) | {
        "error": record.error,
        "limits": record.limits,
        "nodes": record.nodes,
        "files": record.files,
        "correlation_id": record.correlation_id,
        "trace_id": record.trace_id,
        "events": record.events,
        "first_id": record.first_id,
        "attempts": record.attempts,
        "lost_attempts": record.lost_attempts,
        "result": result,
        "partial": partial,
        "usage": usage_of(result, partial, record.tokens),
        "certificate": record.certificate,
        "instance_id": record.instance_id,
        "callback": record.callback,
        "input": record.input if shows_input else None,
    }


def usage_of(result: Any, partial: Any, tokens: int) -> dict[str, int] | None:
    """Return what a model has counted: what its job has returned; of one that was stopped the tokens of its prompt, as
    it has reported them, and those that it has said. None: it has counted nothing.
    """
    for value, more in ((result, {}), (partial, {"completion_tokens": tokens})):
        usage = value.get("usage") if isinstance(value, dict) else None
        if isinstance(usage, dict) and type(usage.get("prompt_tokens")) is int:
            found = {name: count for name, count in (usage | more).items() if type(count) is int}
            return found | {"total_tokens": found["prompt_tokens"] + found.get("completion_tokens", 0)}
    return None


def _value(payload: bytes | None, address: str, inline_bytes_max: int) -> Any:
    if payload is None:
        return None
    return json.loads(payload) if len(payload) <= inline_bytes_max else {"$ref": address}
