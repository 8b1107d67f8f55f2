"""May a worker's payload go into an event stream as it is?

Runs in: supervisor. Pure. Nothing is encoded again on its way out, so a job that writes frames of its own must not
be able to forge an event or a document.
"""

from __future__ import annotations

import json

from killable.workers.protocol.messages import dump_json

RESULT_INLINE_BYTES_MAX = 64 << 10
"""A larger value is named by its address: an event has to fit into every client's line buffer."""


def is_one_line(payload: bytes) -> bool:
    """A line end in it would begin another event."""
    return b"\n" not in payload and b"\r" not in payload


def is_value(payload: bytes) -> bool:
    """Tell whether this may be spliced into a JSON document; a large value never is: it has an address."""
    if not is_one_line(payload):
        return False
    if len(payload) <= RESULT_INLINE_BYTES_MAX:
        try:
            dump_json(json.loads(payload))  # what is no JSON, but Python's: NaN, and 1e999, which it reads as infinity
        except (ValueError, RecursionError):
            return False
    return True
