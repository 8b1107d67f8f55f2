"""The pools of a head: all nodes, which come and go, and the slots that they have.

Runs in: supervisor, on the head. Implements `pool_protocols.RemotePools` in place of `pools.fleet`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from killable.supervisor import clock as clocks
from killable.supervisor import event_loops
from killable.supervisor.clock import Clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import (
    Carrier,
    CarrierError,
    ClusterUnreachable,
    Machine,
    NoMachine,
    Request,
)
from killable.supervisor.cluster.lease import Times, end_of_node
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_drain import seconds_before
from killable.supervisor.cluster.node_host import fingerprints
from killable.supervisor.cluster.node_link import HELLO_S, Epoch, NodeLink
from killable.supervisor.cluster.node_pool import NodePool, NodeShare, NodeSlot, NodeWorker, of_node, retired_of
from killable.supervisor.cluster.node_scaling import Demand, IdleNode, Scaling, to_give_back, to_take_again, wanted
from killable.supervisor.cluster.remote_attempt import RemoteAttempt
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_queue import Selected
from killable.supervisor.jobs.node_labels import NODE, SHOWN_MAX, Labels, Selector, fits, no_node_fits, shown
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.models import JobType, StartRefused
from killable.supervisor.pools.fleet import RETIRED_MAX, PoolsByName
from killable.supervisor.pools.pool_protocols import HeldRun
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import NodeRecord, RetiredWorker, WorkerRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json, load_json

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import RemotePoolsOwner

MEMBERS_S = 2.0
"""How often the head asks which machines there are."""
REQUEST_S = 10.0
"""How long the autoscaler may take to hear what is wanted."""
SHORT_S = 0.05
"""How long after a job has found no slot it is looked which nodes are needed again: there may be more such jobs."""
FIXED = Scaling()
"""Of a cluster that has the size which it has."""
DRAINS_MAX = 1000
"""So many drains are remembered: of nodes that never come back none is ended."""
DRAINED = "an operator has drained it"

logger = logging.getLogger("killable.cluster")


class NodePools(PoolsByName[NodePool]):
    """Every pool of `settings`, over all nodes."""

    swept: bool | None = None
    nodes_lost = 0

    def __init__(
        self, settings: Settings, carrier: Carrier, times: Times, *, packs: bool = False, nodes: Selector | None = None,
        scaling: Scaling = FIXED,
    ) -> None:  # fmt: skip
        """`nodes`: the labels of the machines to use; None: all."""
        self._scaling = scaling
        self._asked: Request | None = None
        """What the autoscaler was asked for last; None: what is not known, of an earlier head."""
        self._is_short = False
        """Whether it is about to be looked which nodes are needed again."""
        super().__init__(settings)
        self._selector = nodes or {}
        self._carrier = carrier
        self._times = times
        self._pools = {spec.name: NodePool(spec, self, packs=packs) for spec in settings.pools}
        self._reported: dict[str, bytes] = {}
        """By pool: the job types of the first node that has it. Others have to have the same."""
        self._links: dict[str, NodeLink] = {}
        self._labels: dict[str, Labels] = {}
        """Of every machine that there is, used or not."""
        self._whys: dict[tuple[str, Selected], str] = {}
        """Why jobs wait, by pool and selector: found anew when a node has changed, or machines were looked for."""
        self._drains: dict[str, Mapping[str, Any]] = {}
        """Drains by operators, by the name of the node, which need not be there now."""
        self._write_drain: Callable[[str, Mapping[str, Any] | None], None] = lambda name, members: None
        self._watching: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()
        """Set when a node has joined, or has certainly ended everything."""
        self._told = asyncio.Event()
        """Set when a node has told something new of a pool, or has gone."""
        self.adopts = bool(settings.journal)
        self.is_settled = False
        self.is_deposed = False
        self._has_joined = False
        """Whether a node was ever used: the epoch stays the same then."""

    def remember_drains(
        self, drains: Mapping[str, Mapping[str, Any]], note: Callable[[str, Mapping[str, Any] | None], None]
    ) -> None:
        self._drains = dict(drains)
        self._write_drain = note

    def use(self, owner: RemotePoolsOwner) -> None:
        self._owner = owner
        for pool in self:
            pool.use(owner)

    async def start(
        self,
        clock: Clock,
        open_spawner: SpawnerFactory | None,
        instance_id: str,
        early_guard: EarlyGuard | None = None,
    ) -> None:
        """Begin to use every machine that there is; return when each has joined or is refused, at most HELLO_S later.

        Raise StartRefused: no machine can be used.
        """
        self._clock = clock
        # Later heads have higher epochs, also for nodes that only they have seen; a clock that was set back is noticed.
        self.epoch = Epoch(int(clocks.realtime() * 1000), instance_id)
        self._began = clock.now()
        await self._carrier.open()
        try:
            await self._look_for_members()
        except CarrierError as error:
            raise ClusterUnreachable(f"the machines of the cluster are not known: {error}") from error
        self._watching = asyncio.ensure_future(self._watch_members())
        due = clock.now() + HELLO_S
        for link in tuple(self._links.values()):
            await event_loops.wait_within(link.decided, max(0.0, due - clock.now()))
        if not self._has_joined:
            causes = "; ".join(f"{link.name}: {link.detail}" for link in self._links.values())
            if not self._labels:
                raise NoMachine(
                    "the cluster has no machine with processors: start one with `ray start --address=...`, without"
                    " --num-cpus=0"
                )
            raise StartRefused(f"no machine of the cluster can be used: {causes or self._why_no_machine()}")

    async def _look_for_members(self) -> None:
        """Begin to use machines that are new, and forget those that are lost and do not come back."""
        members = {member.name: member for member in await self._carrier.members()}
        self._whys.clear()
        self._labels = {name: {**member.labels, NODE: name} for name, member in members.items()}
        names = {name for name, labels in self._labels.items() if self._is_wanted(labels)}
        for name in sorted(names - self._links.keys()):
            link = self._links[name] = NodeLink(name, self._carrier, self._times, self._clock, self)
            link.labels = self._labels[name]
            self._drain_again(link)
            link.start()
        for name in self._links.keys() - names:
            if self._links[name].is_gone:
                await self._links.pop(name).close()
        for name in names:
            self._note_leaving(self._links[name], members[name])
            self._links[name].trouble = members[name].trouble

    def _is_wanted(self, labels: Labels) -> bool:
        return fits(self._selector, labels) and any(fits(pool.spec.nodes, labels) for pool in self)

    def _note_leaving(self, link: NodeLink, machine: Machine) -> None:
        """Drain a node whose machine Ray is about to take away, by then; and no more if Ray keeps it after all."""
        if machine.leaves_at == link.leaves_at:
            return
        link.leaves_at = machine.leaves_at
        if machine.leaves_at is None:
            self._end_drain(link)
            self._drain_again(link)
            return
        self._begin_drain(link, seconds_before(machine.leaves_at, clocks.realtime()), "Ray takes the machine away")

    def _why_no_machine(self) -> str:
        """Return why no machine is wanted, and what would be."""
        if not any(fits(self._selector, labels) for labels in self._labels.values()):
            return f"{no_node_fits(self._selector, self._labels)}: see [cluster] nodes"
        return "; ".join(f"pool {pool.spec.name}: {self.why_no_node(pool.spec)}" for pool in self)

    async def _watch_members(self) -> None:
        while not await event_loops.wait_within(self._closing, MEMBERS_S):
            try:
                await self._look_for_members()
                await self._ask_for_machines()
            except (CarrierError, TimeoutError) as error:
                logger.warning("members_unknown", extra={"detail": str(error)})
            self._give_back_idle()
            self._take_again()

    # ── the size of the cluster ──

    def _demands(self) -> list[Demand]:
        queue = self._owner.job_queue
        return [
            Demand(
                pool.spec.name, {**self._selector, **pool.spec.nodes}, len(pool.workers),
                queue.waiting_by_selector(pool.spec.name),
            )
            for pool in self
        ]  # fmt: skip

    async def _ask_for_machines(self) -> None:
        """Tell the autoscaler what is wanted, if that has changed. Raise CarrierError, TimeoutError."""
        if self._scaling.cpus_max:
            asked = wanted(self._demands(), self._scaling.cpus_max)
            if asked != self._asked:
                await self._request(asked)

    @property
    def cpus_requested(self) -> int:
        return sum(number for _, number in self._asked or ())

    async def _request(self, asked: Request) -> None:
        async with asyncio.timeout(REQUEST_S):
            await self._carrier.request(asked)
        self._asked = asked

    def _give_back_idle(self) -> None:
        """Give nodes back that have had no job for long enough; each pool keeps one."""
        now, idle_s = self._clock.now(), self._scaling.idle_s
        idle = []
        for link in self._links.values() if idle_s else ():
            if not link.is_open or link.attempts or any(pool.uses(link.name) for pool in self):
                link.idle_since = None
                continue
            link.idle_since = now if link.idle_since is None else link.idle_since
            if now - link.idle_since >= idle_s:
                idle.append(self._idle(link))
        for name in to_give_back(idle, {pool.spec.name: pool.open_nodes for pool in self}):
            link = self._links[name]
            link.give_back(dict(self._idle(link).slots), f"it had no job for {idle_s:g} s: its machine may go")

    def _idle(self, link: NodeLink) -> IdleNode:
        slots = link.gave or {pool.spec.name: slots for pool in self if (slots := pool.slots_of(link.name))}
        return IdleNode(link.name, link.labels, slots)

    def on_short(self) -> None:
        if self._scaling.idle_s and not self._is_short:
            self._is_short = True
            self._clock.call_at(self._clock.now() + SHORT_S, self._take_again)

    def _take_again(self) -> None:
        self._is_short = False
        links = [link for link in self._links.values() if link.is_given_back and not link.drain.reason]
        if not links or self._closing.is_set():
            return
        there = [self._idle(link) for link in links if link.state == "released"]
        coming = [self._idle(link) for link in links if link.state != "released"]
        for name in to_take_again(self._demands(), there, coming):
            self._links[name].take_again()

    async def until_warm(self) -> None:
        """Wait until each pool with spares has had a worker on some node, or is broken on all that have it. A pool that
        no node has is not waited for.
        """
        while any(pool.spec.spares and not pool.is_warm for pool in self) and not self._closing.is_set():
            self._told.clear()
            await self._told.wait()

    def lease(self, until: float) -> None:
        """Each node has a lease of its own."""

    async def close(self) -> None:
        self._closing.set()
        self._told.set()
        if self._watching is not None:
            await self._watching
        await asyncio.gather(*(link.close() for link in self._links.values()))
        if self._asked:
            with contextlib.suppress(CarrierError, TimeoutError):
                await self._request(())
        await self._carrier.close()

    def close_in_child(self) -> None: ...

    def attempt(self, job: Job, worker: Any, fence: int) -> RemoteAttempt:
        link = self._links[worker.share.node]
        attempt = RemoteAttempt(job, worker, link.next_number(), link, clock=self._clock, owner=self._owner)
        link.add(attempt)
        return attempt

    def note_recorded(self, attempt: RemoteAttempt) -> None:
        link = self._links.get(attempt.node)
        if link is not None:
            link.note_recorded(attempt)

    # ── attempts of an earlier head ──

    def place_of(self, worker: Any) -> Mapping[str, Any]:
        share: NodeShare = worker.share
        return {"node": share.node, "incarnation": share.incarnation, "lease_s": self._times.lease_s}

    async def look_for(self, starts: Sequence[Mapping[str, Any]]) -> None:
        """Wait until every node that may run one of these has told what it holds, or has certainly ended it: at most
        until its lease is over, which it had from the head before this one.
        """
        for start in starts:
            while not self._is_known(start) and (left_s := self._end_of(start) - self._clock.now()) > 0:
                self._changed.clear()
                await event_loops.wait_within(self._changed, left_s)

    def _end_of(self, start: Mapping[str, Any]) -> float:
        """Return when everything of this incarnation has ended that has not heard of this head."""
        return end_of_node(self._began, max(start["lease_s"], self._times.lease_s))

    def _is_known(self, start: Mapping[str, Any]) -> bool:
        link = self._links.get(start["node"])
        return link is not None and start["incarnation"] in (link.incarnation, *link.ended)

    def find(self, job_id: str, start: Mapping[str, Any]) -> HeldRun | None:
        link = self._links.get(start["node"])
        held = None if link is None else link.held.get((job_id, start["attempt"]))
        if link is None or held is None:
            return None
        return HeldRun(**{name: held[name] for name in HeldRun._fields if name != "node"}, node=link.name)

    def never_began(self, start: Mapping[str, Any]) -> bool:
        link = self._links.get(start["node"])
        if link is None or start["incarnation"] in link.ended:  # one that was lost since its hello may have run it
            return False
        is_as_it_was: bool = link.incarnation == start["incarnation"]
        return is_as_it_was

    def fence_of(self, start: Mapping[str, Any]) -> tuple[str, str]:
        link = self._links.get(start["node"])
        if link is not None and start["incarnation"] in link.ended:
            return link.ended[start["incarnation"]]
        lease_s = max(start["lease_s"], self._times.lease_s)
        return "lease", f"it did not come back within its lease of {lease_s:g} s, so it has ended everything"

    def take_over(self, job: Job, held: HeldRun) -> RemoteAttempt:
        link = self._links[held.node]
        slot = self.pool_of(job.type).take_on(held.node)
        attempt = RemoteAttempt(job, slot, held.n, link, clock=self._clock, owner=self._owner)
        link.add(attempt)
        self.on_load(held.node)
        attempt.go_on(held)
        if (job.id, job.attempts) not in link.held:  # it was lost since `find`
            self._clock.call_at(
                self._clock.now(), lambda: attempt.on_node_lost({"fenced": "lease"}, "it came and went")
            )
        return attempt

    def settle(self) -> None:
        self.is_settled = True
        for link in self._links.values():
            link.settle()

    # ── nodes ──

    def node_records(self) -> list[NodeRecord]:
        slots = dict.fromkeys(self._links, 0)
        for pool in self:
            for node, number in pool.slots_by_node():
                slots[node] += number
        return [link.record(slots[name]) for name, link in sorted(self._links.items())]

    def drain_node(self, name: str, *, drains: bool, deadline_s: float | None) -> NodeRecord:
        """Give a node no more jobs, or again; stop what it runs after `deadline_s`. A drain of a node that is not there
        can only be ended. Raise Refused: unknown_node.
        """
        link = self._links.get(name)
        if link is None:
            if not drains and self._forget_drain(name):
                return NodeRecord(name, "lost", "", 0, 0, None, "it is not there; when it is, it gets jobs")
            raise Refused(f"there is no node {name}", code="unknown_node", node=name)
        if drains:
            self._note_drain(name, deadline_s)
            self._begin_drain(link, deadline_s, DRAINED)
        else:
            self._forget_drain(name)
            self._end_drain(link)
        return next(record for record in self.node_records() if record.name == name)

    def _note_drain(self, name: str, deadline_s: float | None) -> None:
        """Remember a drain, also for the next head: when it is over is told by the clock on the wall."""
        self._drains.pop(name, None)
        self._drains[name] = members = {"until": None if deadline_s is None else clocks.realtime() + deadline_s}
        self._write_drain(name, members)
        if len(self._drains) > DRAINS_MAX:
            self._forget_drain(next(iter(self._drains)))

    def _forget_drain(self, name: str) -> bool:
        """Return whether an operator had drained it."""
        if self._drains.pop(name, None) is None:
            return False
        self._write_drain(name, None)
        return True

    def _drain_again(self, link: NodeLink) -> None:
        """Drain a node that an operator has drained, under this head or an earlier one, and not taken in use again."""
        drain = self._drains.get(link.name)
        if drain is not None:
            until = drain["until"]
            self._begin_drain(link, None if until is None else max(0.0, until - clocks.realtime()), DRAINED)

    def _begin_drain(self, link: NodeLink, deadline_s: float | None, reason: str) -> None:
        link.drain.begin(self._clock, reason, deadline_s, link.end_drained)
        logger.warning("node_draining", extra={"node": link.name, "detail": reason, "deadline_s": deadline_s})
        self._note(link)

    def _end_drain(self, link: NodeLink) -> None:
        if link.drain.reason:
            logger.warning("node_undrained", extra={"node": link.name, "detail": link.drain.reason})
        link.drain.end()
        self._note(link)

    @property
    def trouble(self) -> str:
        return self._carrier.trouble

    def why_no_node(self, spec: PoolSpec) -> str:
        """Return why a pool has no node."""
        nodes = {name: labels for name, labels in self._labels.items() if fits(self._selector, labels)}
        if any(fits(spec.nodes, labels) for labels in nodes.values()):
            return "no node has joined"
        return no_node_fits(spec.nodes, nodes)

    def why_never(self, nodes: Selector) -> str:
        """A machine that fits may come."""
        return ""

    def why_waits(self, pool: str, nodes: Selector) -> str:
        key = pool, tuple(sorted(nodes.items()))
        why = self._whys.get(key)
        if why is None:
            why = self._whys[key] = self._why_waits(self._pools[pool].spec, nodes)
        return why

    def _why_waits(self, spec: PoolSpec, nodes: Selector) -> str:
        known = {name: labels for name, labels in self._labels.items() if fits(self._selector, labels)}
        known = {name: labels for name, labels in known.items() if fits(spec.nodes, labels)}
        fitting = [self._links[name] for name, labels in known.items() if fits(nodes, labels) and name in self._links]
        if not fitting:
            return no_node_fits(nodes, known)
        if any(link.is_open for link in fitting):
            return ""
        states = ", ".join(f"{link.name}: {link.record(0).state}" for link in fitting[:SHOWN_MAX])
        return f"no node with {shown(nodes)} gets jobs ({states})"

    def _note(self, link: NodeLink) -> None:
        self._whys.clear()
        for pool in self:
            pool.set_open(link.name, is_open=link.is_open)
            pool.on_free()

    # ── LinkOwner ──

    def has_settings(self, link: NodeLink, told: dict[str, str]) -> bool:
        ours = fingerprints(self._settings)
        wanted = [pool.spec.name for pool in self if fits(pool.spec.nodes, link.labels)]
        return all(told.get(name) == ours[name] for name in ("", *wanted))

    def on_joined(self, link: NodeLink, hello: Header) -> str:
        for name, ours in (("version", messages.installed_version()), ("python", messages.PYTHON)):
            if hello[name] != ours:
                what = {"version": "killable", "python": "Python"}[name]
                return f"it has {what} {hello[name]}, and this server {ours}: install the same on each machine"
        pools = [pool for pool in self if fits(pool.spec.nodes, link.labels)]
        if why := self._on_reported([pool.spec.name for pool in pools], hello["types"]):
            return why
        for pool in pools:
            pool.join(NodeShare(link.name, link.incarnation, link.labels))
        self._has_joined = True
        self._changed.set()
        return ""

    def _on_reported(self, pools: list[str], types: list[dict[str, Any]]) -> str:
        """Take the job types of a node. Return why it cannot be used; empty: it can."""
        reported = {name: [each for each in types if each["pool"] == name] for name in pools}
        encoded = {name: dump_json(each) for name, each in reported.items()}
        owners = {job_type.name: job_type.pool for job_type in self._types.all()}
        for each in types:
            if owners.get(each["name"], each["pool"]) != each["pool"]:
                return f"its pool {each['pool']} has the job type {each['name']}, as pool {owners[each['name']]} has"
        differing = [name for name in pools if self._reported.get(name, encoded[name]) != encoded[name]]
        if differing:
            names = ", ".join(_difference(self._reported[name], encoded[name]) for name in differing)
            return (
                f"its job types differ from those of the other nodes: {names}; install the same release of the modules"
                " on each machine"
            )
        self._reported |= {name: encoded[name] for name in pools if reported[name]}
        self._types.adopt(_type_of(members) for members in load_json(dump_json(types)))
        self._owner.on_types(self._types.all())
        return ""

    def on_pools(self, link: NodeLink, pools: list[dict[str, Any]]) -> None:
        changed = False
        for told in pools:
            pool = self._pools.get(told["name"])
            if pool is not None:
                changed = pool.tell(link.name, told) or changed
        self._told.set()
        if changed or not pools:
            self._note(link)
            for pool in self:
                self._run_times[pool.spec.name].workers = max(1, pool.slots)
                if pool.state == "broken":
                    self._owner.on_pool_broken(pool)

    def on_lost(self, link: NodeLink) -> None:
        self.nodes_lost += 1
        self._changed.set()
        self._told.set()
        for pool in self:
            pool.leave(link.name)

    def on_released(self, link: NodeLink) -> None:
        self._told.set()
        for pool in self:
            pool.leave(link.name)

    def on_newer_epoch(self, number: int) -> bool:
        if self._has_joined:
            self.is_deposed = True
            logger.error("deposed", extra={"detail": "another head has taken the nodes over: one has them at a time"})
            self._owner.on_deposed()
            return False
        self.epoch = Epoch(number + 1, self.epoch.head)
        return True

    # ── NodePoolOwner ──

    def running_on(self, node: str) -> int:
        return len(self._links[node].attempts)

    def on_load(self, node: str) -> None:
        for pool in self:
            pool.note(node)

    def now(self) -> float:
        return self._clock.now()

    # ── JobPools ──

    def worker(self, worker_id: str) -> tuple[NodePool, Any]:
        """Return a worker that runs a job, or one that its node may know. Raise Refused: unknown_worker."""
        for pool in self:
            for slot in pool.workers.values():
                if slot.id == worker_id:
                    return pool, slot
        for link in self._links.values():
            if link.state == "live" and worker_id.startswith(f"{link.name}."):
                return next(iter(self)), NodeWorker(link, worker_id.removeprefix(f"{link.name}."))
        raise Refused(f"there is no worker {worker_id} on any live node", code="unknown_worker", worker_id=worker_id)

    async def worker_record(self, worker: Any) -> WorkerRecord:
        known: NodeSlot | NodeWorker = worker
        return known.record(self._clock.now())

    async def worker_records(self) -> Sequence[WorkerRecord]:
        return [of_node(node, members) for node, answer in await self._workers() for members in answer["workers"]]

    async def retired_workers(self) -> Sequence[RetiredWorker]:
        retired = [retired_of(node, members) for node, answer in await self._workers() for members in answer["retired"]]
        return sorted(retired, key=lambda each: each.at, reverse=True)[:RETIRED_MAX]

    async def _workers(self) -> Sequence[tuple[str, Header]]:
        """Return what each node tells of its workers."""
        links = [link for link in self._links.values() if link.state == "live"]
        answers = await asyncio.gather(*(link.workers() for link in links))
        return [(link.name, answer) for link, answer in zip(links, answers, strict=True) if answer]


def _type_of(members: dict[str, Any]) -> JobType:
    return JobType(**members | {"operations": tuple(members["operations"])})


def _difference(known: bytes, reported: bytes) -> str:
    """Return the names of the job types that are not the same."""
    ours, theirs = ({each["name"]: each for each in load_json(types)} for types in (known, reported))
    return ", ".join(sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)))
