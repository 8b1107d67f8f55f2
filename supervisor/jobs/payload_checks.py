"""Checks whether a worker's payload may go into an event stream as it is.

Runs in: supervisor. Pure. Payloads are not encoded again on their way out, so a job that writes its own frames must
not be able to forge an event or a document.
"""

from __future__ import annotations

import json

from killable.supervisor.jobs.job_events import RESULT_INLINE_BYTES_MAX
from killable.workers.protocol.messages import dump_json


def is_one_line(payload: bytes) -> bool:
    """Return whether the payload has no line end, which would begin another event."""
    return b"\n" not in payload and b"\r" not in payload


def is_value(payload: bytes) -> bool:
    """Return whether the payload may be spliced into JSON. A large value is not parsed: it has a URL of its own."""
    if not is_one_line(payload):
        return False
    if len(payload) <= RESULT_INLINE_BYTES_MAX:
        try:
            dump_json(json.loads(payload))  # Python reads more than JSON: NaN, and 1e999 as infinity
        except (ValueError, RecursionError):
            return False
    return True
