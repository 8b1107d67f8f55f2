"""The list of jobs, page by page.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from killable.api.client.events import Record
from killable.api.client.http_call import HttpCall
from killable.api.client.retries import Flow, Requester

PAGE_JOBS = 200
"""The largest page that the server returns."""


def page_of_jobs(
    requester: Requester, query: Mapping[str, Any], cursor: str | None
) -> Flow[tuple[list[Record], str | None]]:
    """Return one page of short records, and the cursor of the next page; None: this is the last one."""
    answer = yield from requester.ask(
        HttpCall("GET", "/v1/jobs", query={**query, "limit": PAGE_JOBS, "cursor": cursor})
    )
    server = requester.server
    page, following = server.records(answer, "jobs"), server.members(answer).get("next_cursor")
    # Jobs are numbered, and a list goes down: anything else could go on for ever.
    if following is not None and not (page and _number(following) < _number(cursor or "inf")):
        raise server.unexpected_answer(answer)
    return page, following


def _number(cursor: object) -> float:
    """Return the number in a cursor; not a number if it has none."""
    try:
        return float(cursor) if isinstance(cursor, str) else math.nan
    except ValueError:
        return math.nan
