"""The calls about a server as a whole, as flows: workers, nodes, drain, metrics.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from urllib.parse import quote

from killable.api.client.events import Record
from killable.api.client.http_call import HttpCall, json_of
from killable.api.client.job_pages import JobFilters
from killable.api.client.retries import Flow, Requester
from killable.api.client.timeouts import HELD_S_MAX
from killable.workers.errors import Refused


@dataclass(frozen=True, slots=True)
class ServerCalls:
    """The calls about one server."""

    requester: Requester

    def records(self, path: str, name: str) -> Flow[list[Record]]:
        """Return the objects in one member of the answer at a path."""
        answer = yield from self.requester.ask(HttpCall("GET", path))
        return self.requester.server.records(answer, name)

    def get(self, path: str) -> Flow[Record]:
        return self.requester.members(HttpCall("GET", path))

    def worker(self, id: str) -> Flow[Record]:
        return self.get(_worker_path(id))

    def kill_worker(self, id: str, reason: str) -> Flow[Record]:
        # Not repeated: if the first request killed the worker, the second would be refused as `unknown_worker`.
        return self.requester.members(
            _held(HttpCall("DELETE", _worker_path(id), query={"reason": reason}, again="unsent"))
        )

    def cancel_matching(self, wanted: JobFilters, reason: str, grace_s: float | None, dry_run: bool) -> Flow[Record]:
        members = {**wanted, "reason": reason, "grace_s": grace_s, "dry_run": dry_run}
        body = json_of({name: value for name, value in members.items() if value not in (None, "")})
        # Not repeated: jobs that match by then may not be those that the caller meant.
        return self.requester.members(_held(HttpCall("POST", "/v1/jobs/cancel", body=body, again="unsent")))

    def drain(self, method: str, deadline_s: float | None = None) -> Flow[Record]:
        return self.requester.members(HttpCall(method, "/v1/drain", query={"deadline_s": deadline_s}))

    def drain_node(self, method: str, name: str, deadline_s: float | None = None) -> Flow[Record]:
        path = f"/v1/nodes/{quote(name, safe='')}/drain"
        return self.requester.members(HttpCall(method, path, query={"deadline_s": deadline_s}))

    def reload(self) -> Flow[Record]:
        # Not repeated: a second one would begin anew.
        return (yield from self._until_loaded(_held(HttpCall("POST", "/v1/reload", again="unsent"))))

    def reloaded(self) -> Flow[Record]:
        return self.get("/v1/reload")

    def _until_loaded(self, call: HttpCall) -> Flow[Record]:
        record = yield from self.requester.members(call)
        while record.get("state") == "loading":
            record = yield from self.requester.members(_held(HttpCall("GET", "/v1/reload")))
        if record.get("state") == "failed":  # after the first request, whose refusal would have said it
            why = str(record.get("error", ""))
            raise Refused(
                f"the code was not loaded anew, and the code from before goes on: {why}",
                code="reload_failed", error=why, traceback=str(record.get("traceback", "")),
            )  # fmt: skip
        return record

    def shutdown(self, grace_s: float | None, deadline_s: float, reason: str) -> Flow[Record]:
        query = {"grace_s": grace_s, "deadline_s": deadline_s, "reason": reason}
        return self.requester.members(HttpCall("POST", "/v1/shutdown", query=query, again="unsent"))

    def exposition(self) -> Flow[str]:
        return (yield from self.requester.ask(HttpCall("GET", "/metrics"))).text

    def ready(self) -> Flow[Record]:
        # Not repeated: the 503 of a server that is not ready is the answer.
        return self.requester.members(HttpCall("GET", "/readyz", again="unsent"))


def _worker_path(id: str) -> str:
    return f"/v1/workers/{quote(id, safe='')}"


def _held(call: HttpCall) -> HttpCall:
    """Return the call with the longest wait for its end: one request."""
    return replace(call, headers={"Prefer": f"wait={math.ceil(HELD_S_MAX)}"}, hold_s=HELD_S_MAX)
