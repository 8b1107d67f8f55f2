"""Which call is sent once more, and when: the client's policy, without I/O.

Runs in: any machine (no supervisor, no Linux).

A flow is a generator. It yields what is to be done, an `HttpCall` or a `Pause`, and receives the outcome. `transport`
and `async_transport` carry flows out, so both clients share them, as in httpx's own `auth_flow`. A retry library would
do the waiting itself, once blocking and once not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import httpx

from killable.api.client.exchange import HttpCall, Server, was_sent
from killable.workers.errors import KillableError

RETRIES = 2
"""After the first attempt. With PAUSE_S a server that is not there is reported after about 0.3 s."""
PAUSE_S = 0.1
"""Before the first retry; doubled for each further one, and up to half as much again at random."""
RETRY_S_MAX = 10.0
"""No retry begins later than this after the first failure, whatever Retry-After asks for: a call may be held first."""
BUSY = frozenset({429, 502, 503, 504})
"""HTTP statuses that ask to come again later; 502 and 504 are a proxy's, whose server is being started again, say."""
UNSEEN = frozenset({"too_many_connections", "slow_request"})
"""Refusals from before a request is known: they say nothing of what an earlier sending of it has done."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Step: TypeAlias = HttpCall | Pause
Flow: TypeAlias = Generator[Step, Any, T]


def pause_s(failures: int, error: KillableError | None = None, *, base_s: float = PAUSE_S) -> float:
    """Return how long to wait after so many failures in a row: what the server asked for, or longer and longer."""
    asked_s = error.facts.get("retry_after_s") if error is not None else None
    least: float = asked_s if isinstance(asked_s, float) else base_s * 2.0 ** max(0, failures - 1)
    return least * random.uniform(1.0, 1.5)  # clients that were cut off together do not come back together


def is_busy(error: KillableError) -> bool:
    """Tell whether this answer asked to come again later."""
    return error.facts.get("status") in BUSY or error.code in UNSEEN


def may_repeat(call: HttpCall, error: KillableError) -> bool:
    """Tell whether a call that ended in this error may be sent once more."""
    if "status" in error.facts:  # it was answered
        is_lost = error.code == "unreachable" or error.code in UNSEEN
        return is_busy(error) and (call.again == "safe" or (call.again == "keyed" and is_lost))
    return error.code == "unreachable" and (
        call.again in ("safe", "keyed") or (call.again == "unsent" and not was_sent(error))
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """How calls are put to one server: sent, checked, and sent again where that is safe."""

    server: Server
    retries: int = RETRIES

    def ask(self, call: HttpCall, *, room_s: float = 0.0, until: float = float("inf")) -> Flow[httpx.Response]:
        """Return the 2xx answer. Raise the typed error of the last attempt; but of a call that changes something, and
        whose last one cannot have done it, that of the last one which may have.

        `room_s` is for how long a full queue is asked again, `until` a monotonic time after which nothing is.
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
                if error.code == "unreachable" and was_sent(error):
                    lost = error
                pause = pause_s(failures, error)
                now = time.monotonic()
                first_failed, ready = min(first_failed, now), now + pause
                is_in_time = ready <= min(until, first_failed + RETRY_S_MAX)
                retry = failures <= self.retries and may_repeat(call, error) and is_in_time
                if not retry and not (error.code == "queue_full" and ready <= min(until, started + room_s)):
                    if lost is not None and call.method != "GET" and (error.code in UNSEEN or not was_sent(error)):
                        raise lost from error
                    raise
            yield Pause(pause)

    def members(self, call: HttpCall) -> Flow[dict[str, Any]]:
        """Return the JSON object of a call's answer."""
        return self.server.members((yield from self.ask(call)))
