"""A carrier between a head and nodes of one event loop, which loses, delays, doubles and reorders messages by a seed.

Runs in: the tests. Implements `cluster.carrier.Carrier`. The nodes are real: only the way to them is not.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from killable.supervisor import clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import CarrierError, Machine, Request
from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.jobs.node_labels import NODE, settings_of
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.settings import Settings
from killable.workers.errors import KillableError


@dataclass
class Faults:
    """How often something happens to a message, of 1."""

    lost: float = 0.0
    answer_lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 0.05
    """How late at most: messages that are sent meanwhile pass it."""


@dataclass
class InProcessCarrier:
    """Each node is a `NodeHost` with a supervisor of its own."""

    settings: Settings
    names: Sequence[str]
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    hosts: dict[str, NodeHost] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    """Nodes that no message reaches, and of which none comes."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """By node."""
    leaving: dict[str, float] = field(default_factory=dict)
    """When machines are taken away, as `Machine.leaves_at`."""
    troubles: dict[str, str] = field(default_factory=dict)
    """What is wrong with machines, as `Machine.trouble`."""
    other: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Members of a node's hello in whose place others come: it has another release of something."""
    calls: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    ended: Counter[str] = field(default_factory=Counter)
    """How many incarnations of each node have ended, with everything that they ran."""
    boottime: Callable[[], float] = clock.boottime
    """That of the nodes' leases."""
    open_spawner: SpawnerFactory | None = None
    """What the nodes start in place of processes."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._strays: set[asyncio.Task[bytes]] = set()

    async def open(self) -> None: ...

    async def members(self) -> Sequence[Machine]:
        return [
            Machine(name, self.labels.get(name, {}), self.leaving.get(name), self.troubles.get(name, ""))
            for name in self.names
        ]

    def forget(self, node: str) -> None: ...
    async def request(self, wanted: Request) -> None: ...

    async def start(self, node: str) -> None:
        self._check(node)
        if node not in self.hosts:
            settings = settings_of(self.settings, {**self.labels.get(node, {}), NODE: node}, cores=2)
            host = NodeHost(
                settings, now=lambda: self.now(node), open_spawner=self.open_spawner,
                on_end=lambda: self._on_end(node, host),
            )  # fmt: skip
            try:
                await host.start()
            except (OSError, KillableError) as error:
                await host.close()
                raise CarrierError(f"its pools do not start: {error}") from error
            except asyncio.CancelledError:  # the head is closed, or waits no longer
                await host.close()
                raise
            self.hosts[node] = host

    def now(self, node: str) -> float:
        return self.boottime()

    def _on_end(self, node: str, host: NodeHost) -> None:
        self.ended[node] += 1
        if self.hosts.get(node) is host:
            del self.hosts[node]

    def _check(self, node: str) -> None:
        if node in self.cut_off:
            raise CarrierError(f"{node} is cut off")

    def _happens(self, share: float) -> bool:
        return self._random.random() < share

    async def call(self, node: str, method: str, message: bytes) -> bytes:
        self.calls[method] += 1
        faults = self.faults
        if self._happens(faults.doubled):
            self._send_stray(node, method, message)
        if self._happens(faults.lost):
            await asyncio.Event().wait()  # for ever: the caller limits the time
        await self._delay()
        answer = await self._deliver(node, method, message)
        if method == "hello" and node in self.other:
            header, blobs = messages.unpack(answer)
            answer = messages.pack({**header, **self.other[node]}, blobs)
        if self._happens(faults.answer_lost):
            await asyncio.Event().wait()
        await self._delay()
        self._check(node)
        return answer

    def _send_stray(self, node: str, method: str, message: bytes) -> None:
        """Deliver a message once more, at some time; nobody hears the answer."""

        async def deliver() -> bytes:
            await self._pass(self._random.random() * self.faults.late_s * 4)
            return await self._deliver(node, method, message)

        task = asyncio.ensure_future(deliver())
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)

    async def _delay(self) -> None:
        await self._pass(self._random.random() * self.faults.late_s if self._happens(self.faults.late) else 0.0)

    @staticmethod
    async def _pass(delay_s: float) -> None:
        """Let others run, for this time at least."""
        loop = asyncio.get_running_loop()
        passed = loop.create_future()
        loop.call_later(delay_s, lambda: passed.done() or passed.set_result(None))
        await passed

    async def _deliver(self, node: str, method: str, message: bytes) -> bytes:
        self._check(node)
        host = self.hosts.get(node)
        if host is None:
            raise CarrierError(f"{node} is not there")
        return await host.call(method, message)

    async def close(self) -> None:
        for stray in tuple(self._strays):
            stray.cancel()
        await asyncio.gather(*self._strays, return_exceptions=True)
        for host in tuple(self.hosts.values()):
            await host.close()
