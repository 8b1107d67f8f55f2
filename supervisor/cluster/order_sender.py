"""What the head orders of one node: each order is sent until it is answered, or no longer matters.

Runs in: supervisor, on the head.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Protocol

from killable.supervisor import event_loops
from killable.supervisor.clock import Clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import CarrierError
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_calls import NodeCalls
from killable.workers.named_tuples import NamedTuple

ASK_AGAIN_S = 0.2
"""How long to wait after a call that failed at once."""
SENDERS_MAX = 4
"""Messages with runs that are on their way to a node at once. What is given out meanwhile goes with the next one."""
RUNS_MAX = 64
"""Runs in one message."""
ORDER_BYTES = 1024
"""What a run costs beside its input, about."""


logger = logging.getLogger("killable.cluster")


class Order(NamedTuple):
    """One order, with the piece of an input that goes with it."""

    header: Header
    blob: bytes
    given: float
    """When it was given out."""

    def header_at(self, now: float) -> Header:
        """Return what is sent now: how long a job has waited until then, and not until its order was first sent."""
        if self.header["order"] != "run":
            return self.header
        late_s = now - self.given
        ages = {name: self.header[name] + late_s for name in ("age_s", "waited_s")}
        return {**self.header, **ages}

    def without_reason(self) -> Order:
        """Return a stop that says no more than its code, and by whom."""
        return self._replace(header=self.header | {"verdict": self.header["verdict"] | {"reason": "", "facts": {}}})


class Breakable(Protocol):
    """An attempt, as who sends its orders sees it."""

    def on_broken(self, why: str) -> None: ...


class OrderWay(Protocol):
    """The way to the node in its present incarnation."""

    incarnation: str

    @property
    def attempts(self) -> Mapping[int, Breakable]:
        """Those that are not over."""
        ...

    @property
    def calls(self) -> NodeCalls: ...


class OrderSender:
    """The orders of one node, through all of its incarnations."""

    def __init__(
        self, way: OrderWay, patience_s: float, clock: Clock, run: Callable[[Coroutine[Any, Any, None]], None],
        closing: asyncio.Event,
    ) -> None:  # fmt: skip
        """`patience_s`: how long an answer is waited for. `run` runs something until the node is let go, which
        `closing` says.
        """
        self._way = way
        self._patience_s = patience_s
        self._clock = clock
        self._run = run
        self._closing = closing
        self._waiting: dict[int, deque[Order]] = {}
        """By attempt: orders that are not answered; the first is on its way."""
        self._runs: deque[Order] = deque()
        """Those that wait to go with others."""
        self._senders = 0
        self.delay_s: float | None = None
        """How long the last answer took."""

    def send(self, header: Header, blobs: Collection[bytes]) -> None:
        """Send the orders of these blobs. A stop goes alone, at once, past all that waits; the pieces of an input go
        before its run, one after the other; runs without pieces go together.
        """
        n, now = header["n"], self._clock.now()
        for blob in blobs:
            order = Order(header, blob, now)
            if header["order"] == "stop":
                self._run(self._deliver([order]))
            elif header["order"] == "run" and n not in self._waiting:
                self._runs.append(order)
                if self._senders < SENDERS_MAX:
                    self._senders += 1
                    self._run(self._deliver_runs())
            else:
                waiting = self._waiting.setdefault(n, deque())
                waiting.append(order)
                if len(waiting) == 1:
                    self._run(self._deliver_all(n))

    def forget(self) -> None:
        """Forget what waits: the node is lost."""
        self._waiting.clear()
        self._runs.clear()

    async def _deliver_runs(self) -> None:
        """Send what is given out in one turn of the loop, and what comes while messages are on their way."""
        try:
            while self._runs:
                await self._deliver(self._take_runs())
        finally:
            self._senders -= 1

    def _take_runs(self) -> list[Order]:
        taken: list[Order] = []
        room = messages.BATCH_BYTES_MAX
        while self._runs and (not taken or room >= len(self._runs[0].blob)) and len(taken) < RUNS_MAX:
            taken.append(self._runs.popleft())
            room -= len(taken[-1].blob) + ORDER_BYTES
        return taken

    async def _deliver_all(self, n: int) -> None:
        while waiting := self._waiting.get(n):
            await self._deliver([waiting[0]])
            waiting.popleft()
        self._waiting.pop(n, None)

    async def _deliver(self, orders: list[Order]) -> None:
        """Send orders until they are answered, their attempts are over, or the node is lost."""
        way, incarnation = self._way, self._way.incarnation
        while way.incarnation == incarnation and not self._closing.is_set():
            orders = [order for order in orders if order.header["n"] in way.attempts]
            if not orders:
                return
            try:
                why = await self._why_not(orders)
            except (TimeoutError, CarrierError):
                await event_loops.wait_within(self._closing, ASK_AGAIN_S)
                continue
            except Exception as error:  # a bug in killable: its job ends, and is told
                logger.exception("order_failed", extra={"node": way.calls.name})
                why = f"its order cannot be sent: {error!r}"
            if not why:
                return
            if len(orders) > 1:  # each alone: one of them is at fault
                for order in orders:
                    self._run(self._deliver([order]))
                return
            if orders[0].header["order"] != "stop":
                attempt = way.attempts.get(orders[0].header["n"])
                if attempt is not None:
                    attempt.on_broken(why)
                return
            orders = [orders[0].without_reason()]  # it arrives, whatever of its words is not understood
            await event_loops.wait_within(self._closing, ASK_AGAIN_S)

    async def _why_not(self, orders: list[Order]) -> str:
        """Send orders in one message; return why that cannot be done, empty: it is answered. Raise TimeoutError,
        CarrierError.
        """
        began = self._clock.now()
        given = {"orders": [order.header_at(began) for order in orders]}
        answer, _ = await self._way.calls.call("do", given, self._patience_s, [order.blob for order in orders])
        self.delay_s = round(self._clock.now() - began, 6)
        if answer.get("refused") != messages.NOT_UNDERSTOOD:
            return ""  # another refusal, too: then the node has ended, or belongs to another head
        return f"it does not understand its order: {answer.get('detail', '')}"
