"""The filters of a list of jobs, and its pages.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from killable.api.client.events import Record
from killable.api.client.http_call import HttpCall
from killable.api.client.retries import Flow, Requester


class JobFilters(TypedDict, total=False):
    """Filters of jobs, which are keyword arguments of `jobs`, `watch_jobs` and `cancel_matching`. A job has to match
    all that are given; None: any.
    """

    state: str | None
    """A state, or `active`: queued, running or stopping."""
    type: str | None
    tag: str | None
    """`key:value`."""
    node: str | None
    """Name of the machine of the latest attempt, in a cluster."""
    tenant: str | None
    """Name of the key that submitted it."""
    code: str | None
    """Why it has ended, or is stopped; `timeout` is every code that begins with `timeout.`, too."""
    search: str | None
    """Words that all stand in its id, type, tags, correlation id or code, in any case."""


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
