"""Machines and the way to them, on virtual time: what is lost, late, doubled, cut off, frozen, killed.

Runs in: the test process. `FakeCarrier` implements `cluster.carrier.Carrier` for one head. On each machine is a real
`NodeHost`, with a `FakeNodeSupervisor` in the place of its supervisor. All randomness comes from one seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.fake_node import GUARD_S, FakeNodeSupervisor, Run, Runs
from support.garbled_messages import garble
from support.simulated_process import apart

from killable.supervisor.cluster.carrier import CarrierError, HostGone, Machine, Request
from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.settings import Settings

LATENCIES_S = (0.0005, 0.001)
"""Two, as what comes at the same moment is told together: that is most of what many jobs cost here."""


Alter = Callable[[str, str, bytes], bytes]


@dataclass(frozen=True)
class Trouble:
    """How often something happens to a message, of 1."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 1.0
    """How late at most: messages that are sent meanwhile pass it."""
    garbled: float = 0.0
    """And is none any more."""


class FakeNetwork:
    """All machines."""

    def __init__(self, names: Sequence[str], settings: Settings, seed: int, trouble: Trouble | None = None) -> None:
        self.settings = settings
        self.random = random.Random(seed)
        self.trouble = trouble or Trouble()
        self.loop = asyncio.get_running_loop()
        self.runs = Runs()
        self.machines = {name: FakeMachine(self, name) for name in names}
        self.accepted: dict[str, str] = {}
        """By job: the head that has given it to a node last."""
        self.messages = 0
        self.on_call: Alter = lambda node, method, message: message
        self.on_answer: Alter = lambda node, method, answer: answer
        """What comes in place of a message, each time."""
        self._under_way: set[asyncio.Task[None]] = set()

    def on_run(self, run: Run) -> None:
        """A node begins to run a job: no newer head than the job's own has been answered there."""
        machine, head = self.machines[run.node], self.accepted.get(run.job_id, "")
        newest = machine.heads[-1] if machine.heads else ""
        self.runs.check(head == newest, f"{run} is of head {head!r}, and the node's is {newest!r}")

    def send(self, work: Any) -> None:
        task = apart(work)  # it arrives also if its sender dies
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def happens(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    async def stop(self) -> None:
        """Nothing is under way any more."""
        while self._under_way:
            for task in tuple(self._under_way):
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)


class FakeMachine:
    """One machine, through all incarnations of its node."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.labels = {"zone": "ab"[int(name[1:]) % 2]}
        self.incarnations = 0
        self.host: NodeHost | None = None
        self.supervisor: FakeNodeSupervisor | None = None
        self.heads: list[str] = []
        """Those whose hello was answered, the newest last."""
        self._left: list[FakeNodeSupervisor] = []
        """Of incarnations that were killed."""
        self.leaves_at: float | None = None
        """When Ray takes it away, if that is announced."""
        self.late_s = 0.0
        """How late each message comes, beside those of other machines."""
        self.has_jobs = True
        """Whether the job types can be imported there; else the pool is broken, and nothing is known of them."""
        self.is_off = False
        self.is_cut_off = False
        """No message comes, and none goes."""
        self.is_frozen = False
        """The node's supervisor stands still."""
        self._are_jobs_frozen = False
        self._frozen_at = 0.0
        self._thawed = asyncio.Event()
        self._thawed.set()

    def now(self) -> float:
        """Return the time that the node's supervisor sees: one that stands still sees none pass."""
        return self._frozen_at if self.is_frozen else self.network.loop.time()

    async def start(self) -> None:
        if self.host is None:
            self.incarnations += 1

            def make(settings: Settings, *, observer: Any, **_: Any) -> Any:
                self.supervisor = FakeNodeSupervisor(self, settings, observer)
                return self.supervisor

            host = NodeHost(
                self.network.settings, now=self.now, on_end=lambda: self._on_end(host), make_supervisor=make,
                process=f"{self.name}#{self.incarnations}", sweep=self._sweep,
            )  # fmt: skip
            self.host, self.heads = host, []
            await host.start()

    async def _sweep(self, process: str) -> bool:
        """End what the process of an earlier incarnation has left."""
        await asyncio.sleep(0.01)
        for left in self._left:
            if left.instance_id == process:
                left.kill_all()
        return True

    def _on_end(self, host: NodeHost) -> None:
        if self.host is host:
            self.host = self.supervisor = None

    async def passes(self) -> None:
        """Return when the machine takes a message, or gives one. Never, if it is off or cut off."""
        if self.is_off or self.is_cut_off:
            await asyncio.get_running_loop().create_future()
        if self.is_frozen:
            await self._thawed.wait()
        if self.late_s:
            await asyncio.sleep(self.late_s)

    # ── what happens to it ──

    def kill(self) -> None:
        """SIGKILL to the node's supervisor: its guard ends everything in a moment."""
        self._end(self.network.random.uniform(0.001, GUARD_S))

    def turn_off(self) -> None:
        self.is_off = True
        self._end(0.0)

    def turn_on(self) -> None:
        self.is_off = False

    def _end(self, within_s: float) -> None:
        self.thaw()
        if self.supervisor is not None:
            self.supervisor.die(within_s)
            self._left = [*(left for left in self._left if left.runs_something), self.supervisor]
        self.host = self.supervisor = None

    def freeze(self, *, jobs: bool) -> None:
        """SIGSTOP to the node's supervisor; with `jobs` the whole machine stands still."""
        if self.supervisor is not None and not self.is_frozen:
            self._frozen_at, self.is_frozen, self._are_jobs_frozen = self.network.loop.time(), True, jobs
            self._thawed.clear()
            self.supervisor.freeze(jobs=jobs)

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            self._thawed.set()
            if self.supervisor is not None:
                self.supervisor.thaw(jobs=self._are_jobs_frozen)

    def recover(self) -> None:
        """Be on, connected, and not frozen."""
        self.is_off = self.is_cut_off = False
        self.thaw()


@dataclass(eq=False)
class FakeCarrier:
    """The way of one head to all machines."""

    network: FakeNetwork
    name: str
    is_cut_off: bool = False
    """The head is frozen, dead, or alone."""
    trouble: str = ""
    calls: dict[str, int] = field(default_factory=dict)
    on_step: Callable[[str], None] = lambda step: None
    """Called when a call was sent, and when a node has done what it asks for: its head may die then."""
    requests: list[dict[tuple[tuple[str, str], ...], int]] = field(default_factory=list)
    """What the autoscaler was asked for, each time."""
    tells_members: asyncio.Event = field(default_factory=asyncio.Event)
    answers_requests: asyncio.Event = field(default_factory=asyncio.Event)
    """Unless they are set, nobody tells which machines there are, or answers what is asked for."""
    forgotten: list[str] = field(default_factory=list)
    """Machines that are gone."""

    async def open(self) -> None:
        self.tells_members.set()
        self.answers_requests.set()

    async def close(self) -> None: ...

    async def members(self) -> Sequence[Machine]:
        if self.is_cut_off:
            raise CarrierError("the head is cut off")
        await self.tells_members.wait()
        machines = self.network.machines.items()
        return [Machine(name, each.labels, each.leaves_at) for name, each in machines if not each.is_off]

    def forget(self, node: str) -> None:
        self.forgotten.append(node)

    async def request(self, wanted: Request) -> None:
        self.requests.append({tuple(labels.items()): number for labels, number in wanted})
        await self.answers_requests.wait()

    async def start(self, node: str) -> None:
        machine = self.network.machines[node]
        await self._passes(machine)
        await asyncio.shield(apart(machine.start()))

    async def call(self, node: str, method: str, message: bytes) -> bytes:
        network, trouble = self.network, self.network.trouble
        network.messages += 1
        self.calls[method] = self.calls.get(method, 0) + 1
        if network.happens(trouble.doubled):
            network.send(self._deliver(node, method, message))
        answered = network.loop.create_future()
        network.send(self._deliver(node, method, message, answered))  # it goes on when its caller waits no more
        self.on_step(f"{method} sent")
        return await answered

    async def _passes(self, machine: FakeMachine, *, is_answer: bool = False) -> None:
        """Return when a message has passed, in one direction. Never, if it is lost."""
        network, trouble = self.network, self.network.trouble
        if self.is_cut_off or network.happens(trouble.lost):
            await network.loop.create_future()
        is_late = network.happens(trouble.late)
        if is_late or not is_answer:  # what is on time needs some time, and an answer none: it saves a third
            late_s = network.random.random() * trouble.late_s if is_late else network.random.choice(LATENCIES_S)
            await asyncio.sleep(late_s)
        await machine.passes()
        if self.is_cut_off:
            await network.loop.create_future()

    def _pass_on(self, message: bytes) -> bytes:
        return garble(self.network.random, message) if self.network.happens(self.network.trouble.garbled) else message

    async def _deliver(
        self, node: str, method: str, message: bytes, answered: asyncio.Future[bytes] | None = None
    ) -> None:
        machine = self.network.machines[node]
        await self._passes(machine)
        host = machine.host
        if host is None:
            if answered is not None and not answered.done():
                answered.set_exception(HostGone(f"{node} is not there"))
            return
        answer = await host.call(method, self.network.on_call(node, method, self._pass_on(message)))
        if machine.host is not host or machine.is_frozen:
            return  # it died, or stood still: what it would say now is looked at by the next call
        if method == "hello" and b'"refused"' not in answer[: answer.index(b"\n")] and self.name not in machine.heads:
            machine.heads.append(self.name)
        self.on_step(f"{method} done")
        if answered is None:
            return
        await self._passes(machine, is_answer=True)
        if not answered.done():
            answered.set_result(self.network.on_answer(node, method, self._pass_on(answer)))
