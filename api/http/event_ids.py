"""The id of the last event that a client has received, from its request.

Runs in: api.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from killable.api.http.request_faults import fault, invalid

LastEventId = Annotated[
    str,
    Header(description="Resume after this event; overrides `after`", json_schema_extra={"pattern": "^[0-9]*$"}),
]


def after_of(last_event_id: str, after: int) -> int:
    """Return the id after which to go on: that of the header, else `after`. Raise RequestInvalid."""
    if not last_event_id:
        return after
    if not (last_event_id.isascii() and last_event_id.isdecimal()):
        raise invalid([fault("header", ["Last-Event-ID"], "must be the id of an event, a whole number")])
    # No id has more digits; int() of a very long text would block, then raise.
    return int(last_event_id[:18])
