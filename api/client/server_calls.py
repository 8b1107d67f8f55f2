"""What can be asked of a server beside its single jobs, as flows: lists, workers, draining, metrics.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from killable.api.client.exchange import HttpCall, json_of
from killable.api.client.job_calls import HELD_S_MAX
from killable.api.client.outcomes import Record
from killable.api.client.retries import Asking, Flow

PAGE_JOBS = 200
"""The most that the server gives at once."""


@dataclass(frozen=True, slots=True)
class ServerCalls:
    """One server."""

    asking: Asking

    def page(self, query: Mapping[str, Any], cursor: str | None) -> Flow[tuple[list[Record], str | None]]:
        """Return one page of short records, and the cursor of the next."""
        answer = yield from self.asking.ask(
            HttpCall("GET", "/v1/jobs", query={**query, "limit": PAGE_JOBS, "cursor": cursor})
        )
        members = self.asking.server.members(answer)
        if "jobs" not in members:
            raise self.asking.server.stranger(answer)
        return members["jobs"], members.get("next_cursor")

    def member(self, path: str, name: str) -> Flow[list[Record]]:
        """Return the list that is one member of what stands at a path."""
        answer = yield from self.asking.ask(HttpCall("GET", path))
        return list(self.asking.server.member(answer, name))

    def get(self, path: str) -> Flow[Record]:
        return self.asking.members(HttpCall("GET", path))

    def worker(self, id: str) -> Flow[Record]:
        return self.get(_worker_path(id))

    def kill_worker(self, id: str, reason: str) -> Flow[Record]:
        # Not twice: the second answer for a worker that the first has killed is that there is no such worker.
        return self.asking.members(
            _held(HttpCall("DELETE", _worker_path(id), query={"reason": reason}, again="unsent"))
        )

    def cancel_matching(
        self, type: str | None, tag: str | None, state: str | None, reason: str, grace_s: float | None, dry_run: bool
    ) -> Flow[Record]:
        members = {"type": type, "tag": tag, "state": state, "reason": reason, "grace_s": grace_s, "dry_run": dry_run}
        body = json_of({name: value for name, value in members.items() if value not in (None, "")})
        # Not twice: what matches by then may be jobs that the caller never meant.
        return self.asking.members(_held(HttpCall("POST", "/v1/jobs/cancel", body=body, again="unsent")))

    def drain(self, method: str, deadline_s: float | None = None) -> Flow[Record]:
        return self.asking.members(HttpCall(method, "/v1/drain", query={"deadline_s": deadline_s}))

    def shutdown(self, grace_s: float | None, deadline_s: float, reason: str) -> Flow[Record]:
        query = {"grace_s": grace_s, "deadline_s": deadline_s, "reason": reason}
        return self.asking.members(HttpCall("POST", "/v1/shutdown", query=query, again="unsent"))

    def exposition(self) -> Flow[str]:
        return (yield from self.asking.ask(HttpCall("GET", "/metrics"))).text

    def ready(self) -> Flow[Record]:
        # An unready server's 503 is the answer that was asked for.
        return self.asking.members(HttpCall("GET", "/readyz", again="unsent"))


def _worker_path(id: str) -> str:
    return f"/v1/workers/{quote(id, safe='')}"


def _held(call: HttpCall) -> HttpCall:
    """Return the call with as long a wait for its end as the server grants."""
    return replace(call, headers={"Prefer": f"wait={math.ceil(HELD_S_MAX)}"}, hold_s=HELD_S_MAX)
