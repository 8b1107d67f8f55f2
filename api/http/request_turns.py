"""When requests begin: one in a turn of the event loop, and clients take turns, so that no crowd holds up a kill.

Runs in: api. Plain ASGI, like the checks in `host_and_origin`, outside all of them.

    request ──the turn is free──────────────────────────────► the application
       ├── an operator's ───────────────────────────────────► and others wait meanwhile (`operators_first`)
       ├── else ──► waits for its turn: one of each key or address in a round, cancels first ──►
       └── too many of its key or address wait ──► 503 busy

A turn of the loop is then about one request long, however many are waiting. What belongs to a kill (a signal, a frame,
a deadline) needs a few turns.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from killable.api.http.api_keys import ApiKey, KeyRing
from killable.api.http.auth import presented_key
from killable.api.http.client_network import network_of
from killable.api.http.connection import CONNECTION, Connection
from killable.api.http.operators_first import Precedence
from killable.api.http.problems import problem
from killable.api.http.route_roles import CALLER, access_to
from killable.supervisor.jobs.round_robin import RoundRobin

WAITING_MAX = 1000
"""Requests of one key, or of one address without a key, that wait for their turn: about a second of them."""
RETRY_AFTER_S = 1


class RequestTurns:
    """Who may begin in which turn of the loop, and who waits. In one application's event loop."""

    def __init__(self, waiting_max: int) -> None:
        """`waiting_max`: requests of one source that may wait."""
        self.precedence = Precedence()
        self.waiting_max = waiting_max
        self.shed = 0
        """Requests that were refused because too many of their source waited."""
        self._is_taken = False
        """Whether a request has begun in this turn; true while any waits."""
        self._with_key: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._without_key: RoundRobin[asyncio.Future[None]] = RoundRobin()
        """Apart from the others: a client without a key can have any number of addresses."""
        self._key_is_next = True

    @property
    def waiting(self) -> int:
        return len(self._with_key) + len(self._without_key)

    def begin(self) -> bool:
        """Take this turn. Return False if another request has it."""
        if self._is_taken:
            return False
        self._is_taken = True
        if self.precedence.defer(self._next):
            return False
        asyncio.get_running_loop().call_soon(self._next)
        return True

    def has_room(self, source: str, *, has_key: bool) -> bool:
        """Return whether one more request of a source may wait; count it as refused if not."""
        queue = self._with_key if has_key else self._without_key
        if queue.count(source) < self.waiting_max:
            return True
        self.shed += 1
        return False

    async def wait(self, source: str, *, has_key: bool, is_urgent: bool) -> None:
        """Wait for a turn. Call only after `begin` has returned False."""
        its_turn = asyncio.get_running_loop().create_future()
        (self._with_key if has_key else self._without_key).add(source, its_turn, is_urgent=is_urgent)
        await its_turn

    def _next(self) -> None:
        """Give the next turn to a request that waits. It begins when the loop has run once more."""
        while self.waiting and not self.precedence.defer(self._next):
            queue = self._with_key if self._key_is_next else self._without_key
            self._key_is_next = not self._key_is_next
            if queue and not (its_turn := queue.take()).done():  # else it was cancelled: the server stops
                its_turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = self.waiting > 0


class InTurn:
    """Has each request wait for its turn, but those of operators. Refuses it (503 busy) where too many wait."""

    def __init__(self, app: ASGIApp, turns: RequestTurns, keys: KeyRing | None) -> None:
        self._app = app
        self._turns = turns
        self._keys = keys
        self._busy = problem(
            "busy",
            f"{turns.waiting_max} requests of this key, or of this address without a key, wait already",
            members={"retry_after_s": RETRY_AFTER_S},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._caller(scope) if scope["type"] == "http" else None
        if caller is not None and caller.role == "operate":
            await self._before_others(scope, receive, send)
        elif scope["type"] != "http" or self._turns.begin():
            await self._app(scope, receive, send)
        elif not self._turns.has_room(source := _source(scope, caller), has_key=caller is not None):
            await self._busy(scope, receive, send)
        else:
            is_urgent = access_to(scope["method"], scope["path"]).verb == "cancel"
            await self._turns.wait(source, has_key=caller is not None, is_urgent=is_urgent)
            connection: Connection | None = scope.get(CONNECTION)
            if connection is None or not connection.has_left:
                await self._app(scope, receive, send)
            else:  # until uvicorn knows it, too: it would log that there is no answer
                while (await receive())["type"] != "http.disconnect":
                    pass

    async def _before_others(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request while others wait, until its answer begins: it may be a stream."""
        end = self._turns.precedence.hold()

        async def sending(message: Message) -> None:
            end()
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            end()

    def _caller(self, scope: Scope) -> ApiKey | None:
        """Return the request's key, if it is valid."""
        known: ApiKey | None = scope.get(CALLER)  # on the operators' socket
        if known is not None or self._keys is None:
            return known
        found = presented_key(scope, self._keys)
        return None if found is None or found.has_expired(time.time()) else found


def _source(scope: Scope, caller: ApiKey | None) -> str:
    """Return with whom a request has its turns in common."""
    return network_of((scope.get("client") or ("",))[0]) if caller is None else caller.name
