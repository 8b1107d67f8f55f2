"""How many machines a cluster has: what the autoscaler is asked for, which nodes are given back, and taken again.

Runs in: supervisor, on the head. `node_scaling` decides; this acts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from killable.supervisor.clock import Clock
from killable.supervisor.cluster.carrier import Carrier, CarrierError, Request
from killable.supervisor.cluster.node_link import NodeLink
from killable.supervisor.cluster.node_pool import NodePool
from killable.supervisor.cluster.node_scaling import Demand, IdleNode, Scaling, to_give_back, to_take_again, wanted
from killable.supervisor.jobs.node_labels import Selector

if TYPE_CHECKING:
    from killable.supervisor.jobs.job_queue import JobQueue

REQUEST_S = 10.0
"""How long the autoscaler may take to hear what is wanted."""
SHORT_S = 0.05
"""How long after a job has found no slot it is looked which nodes are needed again: there may be more such jobs."""


class SizedPools(Protocol):
    """All pools and nodes, as far as their number depends on them."""

    @property
    def links(self) -> Mapping[str, NodeLink]: ...
    @property
    def job_queue(self) -> JobQueue: ...
    @property
    def pools(self) -> Iterable[NodePool]: ...
    @property
    def is_closing(self) -> bool: ...


class ClusterSize:
    def __init__(self, pools: SizedPools, carrier: Carrier, selector: Selector, scaling: Scaling) -> None:
        """`selector`: the labels of the machines that are used."""
        self._pools = pools
        self._carrier = carrier
        self._selector = selector
        self._scaling = scaling
        self._asked: Request | None = None
        """What the autoscaler was asked for last; None: what is not known, of an earlier head."""
        self._is_asking = False
        """Whether it was asked for something else since, and has not answered."""
        self._is_short = False
        """Whether it is about to be looked which nodes are needed again."""

    def use(self, clock: Clock) -> None:
        self._clock = clock

    # ── what the autoscaler is asked for ──

    def _demands(self) -> list[Demand]:
        queue = self._pools.job_queue
        return [
            Demand(
                pool.spec.name, {**self._selector, **pool.spec.nodes}, len(pool.workers),
                queue.waiting_by_selector(pool.spec.name),
            )
            for pool in self._pools.pools
        ]  # fmt: skip

    async def ask_for_machines(self) -> None:
        """Tell the autoscaler what is wanted, if that has changed. Raise CarrierError, TimeoutError."""
        if self._scaling.cpus_max:
            asked = wanted(self._demands(), self._scaling.cpus_max)
            if asked != self._asked:
                await self._request(asked)

    async def withdraw(self) -> None:
        """Ask for nothing any more."""
        if self._asked or self._is_asking:
            with contextlib.suppress(CarrierError, TimeoutError):
                await self._request(())

    @property
    def cpus_requested(self) -> int:
        return sum(number for _, number in self._asked or ())

    async def _request(self, asked: Request) -> None:
        self._is_asking = True
        async with asyncio.timeout(REQUEST_S):
            await self._carrier.request(asked)
        self._asked, self._is_asking = asked, False

    # ── what is given back ──

    def give_back_idle(self) -> None:
        """Give nodes back that have had no job for long enough; each pool keeps one."""
        now, idle_s = self._clock.now(), self._scaling.idle_s
        links, pools = self._pools.links, list(self._pools.pools)
        idle = []
        for link in links.values() if idle_s else ():
            if not link.is_open or link.attempts or any(pool.uses(link.name) for pool in pools):
                link.idle_since = None
                continue
            link.idle_since = now if link.idle_since is None else link.idle_since
            if now - link.idle_since >= idle_s:
                idle.append(self._idle(link))
        for name in to_give_back(idle, {pool.spec.name: pool.open_nodes for pool in pools}):
            link = links[name]
            link.give_back(dict(self._idle(link).slots), f"it had no job for {idle_s:g} s: its machine may go")

    def _idle(self, link: NodeLink) -> IdleNode:
        slots = link.gave or {
            pool.spec.name: slots for pool in self._pools.pools if (slots := pool.slots_of(link.name))
        }
        return IdleNode(link.name, link.labels, slots)

    def on_short(self) -> None:
        """A job finds no free slot."""
        if self._scaling.idle_s and not self._is_short:
            self._is_short = True
            self._clock.call_at(self._clock.now() + SHORT_S, self.take_again)

    def take_again(self) -> None:
        """Use nodes again that were given back, as far as jobs wait for them."""
        self._is_short = False
        links = self._pools.links
        given_back = [link for link in links.values() if link.is_given_back and not link.drain.reason]
        if not given_back or self._pools.is_closing:
            return
        there = [self._idle(link) for link in given_back if link.state == "released"]
        coming = [self._idle(link) for link in given_back if link.state != "released"]
        for name in to_take_again(self._demands(), there, coming):
            links[name].take_again()
