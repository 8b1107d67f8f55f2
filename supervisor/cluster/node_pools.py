"""The pools of a head: all nodes, which come and go, and the slots that they have.

Runs in: supervisor, on the head. Implements `pool_protocols.RemotePools` in place of `pools.fleet`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from killable.supervisor import clock as clocks
from killable.supervisor import event_loops
from killable.supervisor.clock import Clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import (
    Carrier,
    CarrierError,
    ClusterUnreachable,
    Deposed,
    Machine,
    NoMachine,
)
from killable.supervisor.cluster.cluster_size import ClusterSize
from killable.supervisor.cluster.earlier_heads import EarlierHeads
from killable.supervisor.cluster.lease import Times, end_of_node
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_drain import DRAINED, LEAVES, seconds_before
from killable.supervisor.cluster.node_host import fingerprints
from killable.supervisor.cluster.node_link import HELLO_S, TAKEN_OVER, Epoch, NodeLink
from killable.supervisor.cluster.node_pool import NodePool, NodeShare, NodeSlot, NodeWorker, of_node, retired_of
from killable.supervisor.cluster.node_scaling import FIXED, Scaling
from killable.supervisor.cluster.remembered_drains import RememberedDrains
from killable.supervisor.cluster.remote_attempt import RemoteAttempt
from killable.supervisor.cluster.reported_types import ReportedTypes
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_queue import Selected
from killable.supervisor.jobs.node_labels import NODE, SHOWN_MAX, Labels, Selector, fits, no_node_fits, shown
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.models import HeadLine, StartRefused
from killable.supervisor.pools.fleet import RETIRED_MAX, PoolsByName
from killable.supervisor.pools.pool_protocols import HeldRun
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import MeasuredWorker, NodeRecord, RetiredWorker, WorkerRecord, WorkerUse
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.jobs.job_queue import JobQueue
    from killable.supervisor.pools.pool_protocols import HeadNotes, RemotePoolsOwner

MEASURED_S = 2.0
"""How long a node may take to tell what its workers use now."""
DRAIN_S = 3.0
"""How long a drain may take to be on disk."""
DRAIN_AGAIN_S = 5
"""After what time one that is not is to be repeated."""
MACHINES_S = 30.0
"""How long after the start of a head that follows another one a machine may be missing in what Ray lists: it may just
have been started again, too.
"""
MEMBERS_S = 2.0
"""How often the head asks which machines there are."""

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
        super().__init__(settings)
        self._size = ClusterSize(self, carrier, nodes or {}, scaling)
        self._selector = nodes or {}
        self._carrier = carrier
        self._times = times
        self._pools = {spec.name: NodePool(spec, self, packs=packs) for spec in settings.pools}
        self._reported = ReportedTypes(self._types)
        self.links: dict[str, NodeLink] = {}
        self._measured: dict[str, Header] = {}
        """What each node has told last of what its workers use, while somebody reads that."""
        self._labels: dict[str, Labels] = {}
        """Of every machine that there is, used or not."""
        self._whys: dict[tuple[str, Selected], str] = {}
        """Why jobs wait, by pool and selector: found anew when a node has changed, or machines were looked for."""
        self._drains = RememberedDrains()
        """By operators."""
        self._earlier = EarlierHeads(times.lease_s)
        self._watching: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()
        """Set when a node has joined, or has certainly ended everything."""
        self._told = asyncio.Event()
        """Set when a node has told something new of a pool, or has gone."""
        self.adopts = bool(settings.journal)
        self.is_settled = False
        self._why_deposed = ""
        self._has_joined = False
        """Whether a node was ever used."""
        self._is_starting = True

    def remember(self, notes: HeadNotes) -> None:
        self._drains.take_over(notes.journal.drains, notes.drains)
        self._earlier.take_over(notes)

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
        self._size.use(clock)
        self._began = clock.now()
        self.epoch = Epoch(await self._earlier.first_epoch(instance_id), instance_id)
        await self._carrier.open()
        try:
            await self._look_for_members()
        except CarrierError as error:
            raise ClusterUnreachable(f"the machines of the cluster are not known: {error}") from error
        self._watching = asyncio.ensure_future(self._watch_members())
        due = clock.now() + HELLO_S
        for link in tuple(self.links.values()):
            await event_loops.wait_within(link.decided, max(0.0, due - clock.now()))
        self._is_starting = False
        self._refuse_deposed()
        if not self._has_joined:
            causes = "; ".join(f"{link.name}: {link.detail}" for link in self.links.values())
            if not self._labels:
                raise NoMachine(
                    "the cluster has no machine with processors: start one with `ray start --address=...`, without"
                    " --num-cpus=0"
                )
            raise StartRefused(f"no machine of the cluster can be used: {causes or self._why_no_machine()}")

    def _refuse_deposed(self) -> None:
        """Raise Deposed if another head has the nodes."""
        if self._why_deposed:
            raise Deposed(self._why_deposed)

    async def _look_for_members(self) -> None:
        """Begin to use machines that are new, and forget those that are lost and do not come back."""
        members = {member.name: member for member in await self._carrier.members()}
        self._whys.clear()
        self._labels = {name: {**member.labels, NODE: name} for name, member in members.items()}
        names = {name for name, labels in self._labels.items() if self._is_wanted(labels)}
        for name in sorted(names - self.links.keys()):
            link = self.links[name] = NodeLink(name, self._carrier, self._times, self._clock, self)
            link.labels = self._labels[name]
            self._drain_again(link)
            link.start()
        for name in self.links.keys() - names:
            if self.links[name].is_gone:
                await self.links.pop(name).close()
                self._carrier.forget(name)
        for name in names:
            self._note_leaving(self.links[name], members[name])
            self.links[name].trouble = members[name].trouble
        self._look_for_broken()  # the machine that was waited for may be gone, or be refused

    def _is_wanted(self, labels: Labels) -> bool:
        return fits(self._selector, labels) and any(fits(pool.spec.nodes, labels) for pool in self)

    def _note_leaving(self, link: NodeLink, machine: Machine) -> None:
        """Drain a node whose machine Ray is about to take away, by then; and no more if Ray keeps it after all."""
        if machine.leaves_at == link.leaves_at:
            return
        link.leaves_at = machine.leaves_at
        if machine.leaves_at is None:
            self._end_drain(link, LEAVES)
        else:
            self._begin_drain(link, seconds_before(machine.leaves_at, clocks.realtime()), LEAVES)

    def _why_no_machine(self) -> str:
        """Return why no machine is wanted, and what would be."""
        if not any(fits(self._selector, labels) for labels in self._labels.values()):
            return f"{no_node_fits(self._selector, self._labels)}: see [cluster] nodes"
        return "; ".join(f"pool {pool.spec.name}: {self.why_no_node(pool.spec)}" for pool in self)

    async def _watch_members(self) -> None:
        while not await event_loops.wait_within(self._closing, MEMBERS_S):
            try:
                await self._look_for_members()
                await self._size.ask_for_machines()
            except (CarrierError, TimeoutError) as error:
                logger.warning("members_unknown", extra={"detail": str(error)})
            self._size.give_back_idle()
            self._size.take_again()

    # ── the size of the cluster ──

    @property
    def pools(self) -> Iterable[NodePool]:
        return self._pools.values()

    @property
    def job_queue(self) -> JobQueue:
        return self._owner.job_queue

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    @property
    def cpus_requested(self) -> int:
        return self._size.cpus_requested

    def on_short(self) -> None:
        self._size.on_short()

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
            self._watching.cancel()  # which machines there are may be answered late, or never
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self.links.values()))
        await self._size.withdraw()
        await self._carrier.close()

    def close_in_child(self) -> None: ...

    def attempt(self, job: Job, worker: Any, fence: int) -> RemoteAttempt:
        link = self.links[worker.share.node]
        attempt = RemoteAttempt(job, worker, link.next_number(), link, clock=self._clock, owner=self._owner)
        link.add(attempt)
        return attempt

    def note_recorded(self, attempt: RemoteAttempt) -> None:
        if not self._settings.journal_output and attempt.job.shown is not None and not self.is_closing:
            attempt.job.shown = None
            attempt.job.wake()
        link = self.links.get(attempt.node)
        if link is not None:
            link.note_recorded(attempt)

    # ── attempts of an earlier head ──

    def place_of(self, worker: Any) -> Mapping[str, Any]:
        share: NodeShare = worker.share
        return {"node": share.node, "incarnation": share.incarnation, "lease_s": self._times.lease_s}

    async def look_for(self, starts: Sequence[Mapping[str, Any]], types: Collection[str]) -> None:
        """Wait until every node that may run one of these has told what it holds, or has certainly ended it: at most
        until its lease is over, which it had from the head before this one. And, while a pool works nowhere, until each
        of these types is known: MACHINES_S at most.
        """
        for start in starts:
            while not self._is_known(start) and (left_s := self._end_of(start) - self._clock.now()) > 0:
                self._changed.clear()
                await event_loops.wait_within(self._changed, left_s)
        while not self._are_known(types) and (left_s := self._machines_s) > 0:
            self._changed.clear()
            await event_loops.wait_within(self._changed, left_s)
        self._refuse_deposed()

    def _are_known(self, types: Collection[str]) -> bool:
        """Return whether these types are known, or all that there are."""
        known = {job_type.name for job_type in self._types.all()}
        return known.issuperset(types) or all(pool.works for pool in self)

    @property
    def _machines_s(self) -> float:
        """How long from now on a machine may be missing in what Ray lists."""
        return max(0.0, self._began + MACHINES_S - self._clock.now()) if self._earlier.epoch else 0.0

    def _end_of(self, start: Mapping[str, Any]) -> float:
        """Return when everything of this incarnation has ended that has not heard of this head."""
        return end_of_node(self._began, max(start["lease_s"], self._times.lease_s))

    def _is_known(self, start: Mapping[str, Any]) -> bool:
        link = self.links.get(start["node"])
        return link is not None and start["incarnation"] in (link.incarnation, *link.ended)

    def find(self, job_id: str, start: Mapping[str, Any]) -> HeldRun | None:
        link = self.links.get(start["node"])
        held = None if link is None else link.held.get((job_id, start["attempt"]))
        if link is None or held is None:
            return None
        return HeldRun(**{name: held[name] for name in HeldRun._fields if name != "node"}, node=link.name)

    def never_began(self, job_id: str, start: Mapping[str, Any]) -> bool:
        link = self.links.get(start["node"])
        if link is None or start["incarnation"] in link.ended:  # one that was lost since its hello may have run it
            return False
        if (job_id, start["attempt"]) in link.dropped:
            return False
        is_as_it_was: bool = link.incarnation == start["incarnation"]
        return is_as_it_was

    def fence_of(self, job_id: str, start: Mapping[str, Any]) -> tuple[str, str]:
        link = self.links.get(start["node"])
        if link is not None and start["incarnation"] in link.ended:
            return link.ended[start["incarnation"]]
        if link is not None and (job_id, start["attempt"]) in link.dropped:
            return "told", "another server has used the node meanwhile, which has ended what that did not know"
        lease_s = max(start["lease_s"], self._times.lease_s)
        return "lease", f"it did not come back within its lease of {lease_s:g} s, so it has ended everything"

    def take_over(self, job: Job, held: HeldRun) -> RemoteAttempt:
        link = self.links[held.node]
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
        for link in self.links.values():
            link.settle()

    # ── nodes ──

    def node_records(self) -> list[NodeRecord]:
        slots = dict.fromkeys(self.links, 0)
        for pool in self:
            for node, number in pool.slots_by_node():
                slots[node] += number
        return [link.record(slots[name]) for name, link in sorted(self.links.items())]

    async def drain_node(self, name: str, *, drains: bool, deadline_s: float | None) -> NodeRecord:
        """Give a node no more jobs, or again; stop what it runs after `deadline_s`. A drain of a node that is not there
        can only be ended. Return when that is on disk. Raise Refused: unknown_node, journal_failed.
        """
        record = self._drain_node(name, drains=drains, deadline_s=deadline_s)
        if not await self._drains.until_written(DRAIN_S):
            what = "gets no more jobs" if drains else "gets jobs again"
            why = f"node {name} {what}, but the journal cannot be written: a restarted server knows nothing of it"
            raise Refused(why, code="journal_failed", node=name, retry_after_s=DRAIN_AGAIN_S)
        return record

    def _drain_node(self, name: str, *, drains: bool, deadline_s: float | None) -> NodeRecord:
        link = self.links.get(name)
        if link is None:
            if not drains and self._drains.forget(name):
                return NodeRecord(name, "lost", "", 0, 0, None, "it is not there; when it is, it gets jobs")
            raise Refused(f"there is no node {name}", code="unknown_node", node=name)
        if drains:
            self._drains.note(name, deadline_s)
            self._begin_drain(link, deadline_s, DRAINED)
        else:
            self._drains.forget(name)
            self._end_drain(link, DRAINED, LEAVES)
        return next(record for record in self.node_records() if record.name == name)

    def _drain_again(self, link: NodeLink) -> None:
        """Drain a node that an operator has drained, under this head or an earlier one, and not taken in use again."""
        drained = self._drains.of(link.name)
        if drained is not None:
            self._begin_drain(link, drained.deadline_s, DRAINED)

    def _begin_drain(self, link: NodeLink, deadline_s: float | None, reason: str) -> None:
        link.drain.begin(reason, deadline_s)
        logger.warning("node_draining", extra={"node": link.name, "detail": reason, "deadline_s": deadline_s})
        self._note(link)

    def _end_drain(self, link: NodeLink, *reasons: str) -> None:
        was = link.drain.reason
        for reason in reasons:
            link.drain.end(reason)
        if was and not link.drain.reason:
            logger.warning("node_undrained", extra={"node": link.name, "detail": was})
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
        fitting = [self.links[name] for name, labels in known.items() if fits(nodes, labels) and name in self.links]
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
        if why := self._reported.take([pool.spec.name for pool in pools], hello["types"]):
            return why
        self._owner.on_types(self._types.all())
        for pool in pools:
            pool.join(NodeShare(link.name, link.incarnation, link.labels))
        self._has_joined = True
        self._changed.set()
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
            self._look_for_broken()

    def _look_for_broken(self) -> None:
        """End what waits for a pool that is broken on every machine that there is for it."""
        for pool in self:
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

    async def on_newer_epoch(self, number: int) -> bool:
        if number < self.epoch.number:  # the node was greeted before another one told of that epoch
            return True
        if self.adopts:  # a head after this one has the journal, which is not in its place any more
            is_later = self.is_settled or not await self._earlier.may_go_above(number)
        else:  # none that has begun since has a number above the time of day, unless its machine has another one
            was_set_back = self._is_starting and number > clocks.realtime() * 1000
            is_later = self._has_joined and not was_set_back
        if is_later:
            self.on_deposed()
        else:
            self.epoch = Epoch(max(number + 1, self.epoch.number), self.epoch.head)
        return not self.is_deposed

    @property
    def is_deposed(self) -> bool:
        return bool(self._why_deposed)

    @property
    def line(self) -> HeadLine:
        return self._earlier.line

    @property
    def written(self) -> int:
        return self._earlier.written if self.is_settled else 0

    def on_deposed(self, why: str = TAKEN_OVER) -> None:
        self._why_deposed = self._why_deposed or why
        logger.error("deposed", extra={"detail": why})
        self._owner.on_deposed()
        self._changed.set()
        for link in self.links.values():
            link.decided.set()

    # ── NodePoolOwner ──

    def has_other(self, spec: PoolSpec, known: Container[str]) -> bool:
        if self._machines_s:
            return True
        others = (link for name, link in self.links.items() if name not in known and link.state != "refused")
        return any(fits(spec.nodes, link.labels) for link in others)

    def running_on(self, node: str) -> int:
        return len(self.links[node].attempts)

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
        for link in self.links.values():
            if link.state == "live" and worker_id.startswith(f"{link.name}."):
                return next(iter(self)), NodeWorker(link.calls, worker_id.removeprefix(f"{link.name}."))
        raise Refused(f"there is no worker {worker_id} on any live node", code="unknown_worker", worker_id=worker_id)

    async def worker_record(self, worker: Any) -> WorkerRecord:
        known: NodeSlot | NodeWorker = worker
        return known.record(self._clock.now())

    async def worker_records(self) -> Sequence[WorkerRecord]:
        return [of_node(node, members) for node, answer in await self._workers() for members in answer["workers"]]

    async def measured_workers(self) -> tuple[Sequence[MeasuredWorker], Sequence[RetiredWorker]]:
        links = [link for link in self.links.values() if link.state == "live"]
        answers = await asyncio.gather(*(link.calls.workers(MEASURED_S, uses=True) for link in links))
        came = {link.name: answer for link, answer in zip(links, answers, strict=True)}
        # What a node has told before stands for it while it is slow.
        self._measured = {node: last for node, answer in came.items() if (last := answer or self._measured.get(node))}
        told, now = self._measured.items(), self._clock.now()
        measured = [
            MeasuredWorker(of_node(node, members), WorkerUse(**use), now)
            for node, answer in told
            for members, use in zip(answer["workers"], answer["uses"], strict=False)
        ]
        return measured, _latest([retired_of(node, members) for node, answer in told for members in answer["retired"]])

    async def retired_workers(self) -> Sequence[RetiredWorker]:
        retired = [retired_of(node, members) for node, answer in await self._workers() for members in answer["retired"]]
        return _latest(retired)

    async def _workers(self) -> Sequence[tuple[str, Header]]:
        """Return what each node tells of its workers."""
        links = [link for link in self.links.values() if link.state == "live"]
        answers = await asyncio.gather(*(link.calls.workers() for link in links))
        return [(link.name, answer) for link, answer in zip(links, answers, strict=True) if answer]


def _latest(retired: list[RetiredWorker]) -> Sequence[RetiredWorker]:
    return sorted(retired, key=lambda each: each.at, reverse=True)[:RETIRED_MAX]
