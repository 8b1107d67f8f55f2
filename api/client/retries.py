"""Which calls are sent again, and when: the client's retry policy, without I/O.

Runs in: any machine (no supervisor, no Linux).

A flow is a generator. It yields an `HttpCall` or a `Pause` and receives the outcome. `transport` and `async_transport`
run flows, so both clients share them, as in httpx's own `auth_flow`. A retry library would do the waiting itself, in
one version for blocking code and one for asyncio.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import httpx

from killable.api.client.http_call import HttpCall
from killable.api.client.server_answers import Server, may_have_arrived
from killable.workers.errors import KillableError

RETRIES = 2
"""Retries after the first attempt. With PAUSE_S, an absent server is reported after about 0.3 s."""
PAUSE_S = 0.1
"""Seconds before the first retry. Doubled for each further one; up to half as much is added at random."""
RETRY_S_MAX = 10.0
"""No retry starts later than this many seconds after the first failure, whatever Retry-After is. The time before that
failure does not count: the server may have held the call.
"""
BUSY = frozenset({429, 502, 503, 504})
"""HTTP statuses after which a retry may help. 502 and 504 come from a proxy, for example while its server restarts."""
EARLY_REFUSALS = frozenset({"too_many_connections", "busy", "slow_request"})
"""Refusals made before the request is identified: they do not show what an earlier sending of it has done."""

AFTER_KEY = frozenset(
    {"idempotency_conflict", "draining", "limit_over_cap", "priority_over_max", "deadline_unmeetable"}
    | {"queue_full", "tenant_queue_full"}
)
"""Refusals of a submission made only once its idempotency key was found to be new, or another request's: an earlier
sending has started nothing. Others say nothing of it: they are made before, of a key that has expired or a rate.
"""
NO_ROOM = frozenset({"queue_full", "tenant_queue_full", "too_many_submissions"})
"""Refusals that `wait_for_room_s` is for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait before the next step."""

    seconds: float


Step: TypeAlias = HttpCall | Pause
Flow: TypeAlias = Generator[Step, Any, T]


def pause_s(failures: int, error: KillableError | None = None, *, base_s: float = PAUSE_S) -> float:
    """Return how long to wait after this many failures in a row: what the server asked for, else doubling each time."""
    asked_s = error.facts.get("retry_after_s") if error is not None else None
    least: float = asked_s if isinstance(asked_s, float) else base_s * 2.0 ** max(0, failures - 1)
    return least * random.uniform(1.0, 1.5)  # clients disconnected together must not return together


def is_busy(error: KillableError) -> bool:
    """Return whether the answer asked the client to try again later."""
    return error.facts.get("status") in BUSY or error.code in EARLY_REFUSALS


def may_repeat(call: HttpCall, error: KillableError, *, after_lost: bool = False) -> bool:
    """Return whether a call that failed with this error may be sent again. `after_lost`: an earlier sending may have
    arrived, so that a refusal which says nothing of that is no answer.
    """
    if "status" in error.facts:  # there was an answer
        is_lost = error.code == "unreachable" or error.code in EARLY_REFUSALS
        is_lost = is_lost or (after_lost and error.code not in AFTER_KEY)
        return is_busy(error) and (call.again == "safe" or (call.again == "keyed" and is_lost))
    return error.code == "unreachable" and (
        call.again in ("safe", "keyed") or (call.again == "unsent" and not may_have_arrived(error))
    )


def _may_have_done(error: KillableError) -> bool:
    """Return whether a server may have done what it gave no answer to; below 500 it is another one at its address."""
    status: int = error.facts.get("status", 500)
    return error.code == "unreachable" and may_have_arrived(error) and status >= 500


def _tells_of_earlier(call: HttpCall, error: KillableError) -> bool:
    """Return whether this outcome of a repeated call says what an earlier sending has done, or is as lost as that."""
    if error.code == "unreachable":
        return _may_have_done(error)
    return error.code in AFTER_KEY if call.again == "keyed" else error.code not in EARLY_REFUSALS


@dataclass(frozen=True, slots=True)
class Requester:
    """Sends calls to one server, checks the answers, and sends calls again where that is safe."""

    server: Server
    retries: int = RETRIES

    def ask(
        self, call: HttpCall, *, room_s: float = 0.0, until: float = float("inf"), after_lost: bool = False
    ) -> Flow[httpx.Response]:
        """Return the 2xx answer. Raise the typed error of the last attempt. But if the call changes something and the
        last attempt says nothing of an earlier one that may have done it, raise the error of that.

        `room_s`: how long a full queue is retried, in seconds. `until`: monotonic time after which nothing is retried.
        `after_lost`: the call was sent before, without an answer.
        """
        failures = 0
        started = time.monotonic()
        first_failed = float("inf")
        lost: KillableError | None = None
        while True:
            try:
                return self.server.checked((yield call))
            except KillableError as error:
                failures += 1
                if _may_have_done(error):
                    lost = error
                pause = pause_s(failures, error)
                now = time.monotonic()
                first_failed, ready = min(first_failed, now), now + pause
                is_in_time = ready <= min(until, first_failed + RETRY_S_MAX)
                again = may_repeat(call, error, after_lost=after_lost or lost is not None)
                retry = failures <= self.retries and again and is_in_time
                if not retry and not (error.code in NO_ROOM and ready <= min(until, started + room_s)):
                    if lost is not None and call.method != "GET" and not _tells_of_earlier(call, error):
                        raise lost from error
                    raise
            yield Pause(pause)

    def members(self, call: HttpCall) -> Flow[dict[str, Any]]:
        """Return the JSON object of the answer to a call."""
        return self.server.members((yield from self.ask(call)))
