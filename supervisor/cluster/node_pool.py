"""One pool over all nodes: how many slots are free, on which, and which one is next.

Runs in: supervisor, on the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from killable.supervisor.cluster.placement import FreeSlots, Placement
from killable.supervisor.jobs.job_queue import Selected
from killable.supervisor.jobs.node_labels import Labels, fits
from killable.supervisor.models import WorkerId
from killable.supervisor.pools.pool_sizing import Occupancy
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.records import PoolRecord, RetiredWorker, WorkerRecord
from killable.supervisor.settings import PoolSpec

LINES_MAX = 64
"""So many selectors of jobs are remembered, also if no job waits that has them."""

if TYPE_CHECKING:
    from killable.supervisor.cluster.remote_attempt import RemoteAttempt
    from killable.supervisor.pools.pool_protocols import RemotePoolsOwner


class NodeShare:
    """What one node has of one pool, in one incarnation."""

    def __init__(self, node: str, incarnation: str, labels: Labels) -> None:
        self.node = node
        self.incarnation = incarnation
        self.labels = labels
        self.lines: set[Selected] = set()
        """The selectors in use that it fits."""
        self.is_open = False
        """Whether it may get another job."""
        self.told: dict[str, Any] = {
            "state": "starting", "slots": 0, "quarantined": 0, "detail": "", "proof": "", "start_method": "",
            "is_warm": False, "starts_fail": False,
        }  # fmt: skip
        """What the node has told of its pool last."""
        self.replaced: Counter[str] = Counter()
        """Of this pool on the node, as told last."""
        self.used = 0

    @property
    def free(self) -> int:
        if not self.is_open or self.told["state"] != "ready":
            return 0
        slots: int = self.told["slots"] - self.told["quarantined"]
        return max(0, slots - self.used)


class NodeSlot:
    """One slot of a node, taken for one attempt. Implements `pool_protocols.JobWorker`."""

    def __init__(self, pool: NodePool, share: NodeShare, born: float) -> None:
        self.pool = pool
        self.share = share
        self.attempt: RemoteAttempt | None = None
        self.stage = WorkerStage.IDLE
        self.worker_stays = False
        """Whether the node's worker goes on to another job."""
        self._born = born
        self._is_ready = False
        self._when_ready: Callable[[], None] | None = None

    @property
    def id(self) -> WorkerId:
        """The node's name, until the node has told which of its workers it is."""
        job_id = None if self.attempt is None else self.attempt.job.worker_id
        return WorkerId(job_id or self.share.node)

    @property
    def pid(self) -> int | None:
        return None if self.attempt is None else self.attempt.job.pid

    @property
    def state(self) -> str:
        if self.attempt is not None and self.attempt.job.public_state == "stopping":
            return "stopping"
        return WorkerStage.IDLE.value if self.stage is WorkerStage.RESERVED else self.stage.value

    def take(self, attempt: RemoteAttempt) -> None:
        self.stage, self.attempt = WorkerStage.BUSY, attempt

    def reserve(self) -> None:
        self.stage = WorkerStage.RESERVED

    def is_reserved(self) -> bool:
        """Return whether its node is still there for the job that it was kept for."""
        if self.stage is WorkerStage.RESERVED and not self.share.is_open:
            self.release()
        return self.stage is WorkerStage.RESERVED

    def unreserve(self) -> None:
        if self.stage is WorkerStage.RESERVED:
            self.release()

    def release(self) -> None:
        """Give the slot back."""
        self.stage, self.attempt = WorkerStage.IDLE if self.worker_stays else WorkerStage.GONE, None
        self.pool.give_back(self)
        self.pool.on_free()

    def revoke_lane(self) -> None:
        """Only this machine's workers have lanes."""

    def when_slot_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` when its node has told that it has a worker for the slot: at once, or later."""
        self._when_ready = callback
        if self._is_ready:
            callback()

    def on_slot_ready(self) -> None:
        self._is_ready = True
        if self._when_ready is not None:
            self._when_ready()

    async def measured(self, *, alone: bool) -> None:
        """Return nothing: its node knows."""

    async def until_gone(self, timeout_s: float) -> None: ...

    def record(self, now: float) -> WorkerRecord:
        job = None if self.attempt is None else self.attempt.job
        return WorkerRecord(
            worker_id=self.id,
            pool=self.pool.spec.name,
            pid=self.pid,
            state=self.state,
            job_id=None if job is None else job.id,
            type=None if job is None else job.type.name,
            attempt=None if job is None else job.attempts,
            age_s=round(now - self._born, 3),
            jobs=1,
            start_method=self.share.told["start_method"] or self.pool.spec.start_method,
            proof=self.share.told["proof"],
            node=self.share.node,
        )


class WorkerKiller(Protocol):
    """The way to a node, as a worker of it sees it."""

    name: str

    async def kill_worker(self, worker_id: str, wait_s: float) -> dict[str, Any]: ...


class NodeWorker:
    """A worker of a node that runs no job as far as its head knows: only the node knows more."""

    attempt: None = None
    stage = WorkerStage.IDLE

    def __init__(self, link: WorkerKiller, worker_id: str) -> None:
        """`worker_id` is the one that it has on its node."""
        self._link = link
        self._worker_id = worker_id
        self._told: dict[str, Any] = {}

    def revoke_lane(self) -> None:
        """Only this machine's workers have lanes."""

    async def until_gone(self, timeout_s: float) -> None:
        """Have it killed. Raise Refused: unknown_worker."""
        self._told = await self._link.kill_worker(self._worker_id, timeout_s)

    def record(self, now: float) -> WorkerRecord:
        return of_node(self._link.name, self._told)


def of_node(node: str, members: dict[str, Any]) -> WorkerRecord:
    """Return the record of a worker that its node has told."""
    return WorkerRecord(**members | {"worker_id": f"{node}.{members['worker_id']}", "node": node})


def retired_of(node: str, members: dict[str, Any]) -> RetiredWorker:
    """Return what its node has told of a worker that was not reused."""
    return RetiredWorker(**members | {"worker_id": f"{node}.{members['worker_id']}"})


class NodePoolOwner(Protocol):
    """All pools, as one of them sees them."""

    def running_on(self, node: str) -> int: ...
    def on_load(self, node: str) -> None:
        """The node has one job more or less."""
        ...

    def on_short(self) -> None:
        """A job finds no free slot."""
        ...

    def why_no_node(self, spec: PoolSpec) -> str: ...
    def has_other(self, spec: PoolSpec, known: Container[str]) -> bool:
        """Return whether a pool may have a machine beside these nodes, of which nothing is known now."""
        ...

    def now(self) -> float: ...


class NodePool:
    """Implements `pool_protocols.JobPool`."""

    def __init__(self, spec: PoolSpec, owner: NodePoolOwner, *, packs: bool) -> None:
        self.spec = spec
        self._owner = owner
        self._dispatcher: RemotePoolsOwner | None = None
        self._free = FreeSlots(packs=packs)
        self._any = Placement(self._free)
        """All nodes."""
        self._lines: dict[Selected, Placement] = {}
        """By selector, of jobs that wait or may come again: the nodes that fit it."""
        self._lines_max = LINES_MAX
        self._freed: set[str] = set()
        """Nodes with a free slot for which a line may be closed: of each closed line all that have one."""
        self._shares: dict[str, NodeShare] = {}
        self._states: Counter[str] = Counter()
        """How many nodes have it in each state. It is asked for at every submission."""
        self.slots = 0
        """On all nodes."""
        self.workers: dict[int, NodeSlot] = {}
        """Slots that are taken, by a number of their own."""
        self.errno: int | None = None
        self._replaced: Counter[str] = Counter()
        """Workers that have ended on nodes, also on those that are gone, by `records.REPLACED`."""
        self.zygote_restarts = 0
        """Likewise."""

    def use(self, dispatcher: RemotePoolsOwner) -> None:
        self._dispatcher = dispatcher

    # ── the nodes ──

    def join(self, share: NodeShare) -> None:
        """Take a new incarnation of a node in. What its last one has left is not counted."""
        self.leave(share.node)
        self._shares[share.node] = share
        self._count(share, 1)
        share.lines = {selected for selected in self._lines if fits(dict(selected), share.labels)}
        for placement in self._placements(share):
            placement.nodes.add(share.node)

    def _placements(self, share: NodeShare) -> Iterator[Placement]:
        """Yield what a node is looked for in."""
        yield self._any
        for selected in share.lines:
            yield self._lines[selected]

    def _count(self, share: NodeShare | None, sign: int) -> None:
        """Add what a node has, or (-1) take it away."""
        if share is not None:
            self._states[share.told["state"]] += sign
            self.slots += sign * share.told["slots"]

    def set_open(self, node: str, *, is_open: bool) -> None:
        """Set whether a node may get another job."""
        share = self._shares.get(node)
        if share is not None:
            share.is_open = is_open
            self.note(node)

    def tell(self, node: str, told: dict[str, Any]) -> bool:
        """Take what a node tells of its pool; return whether that is new."""
        share = self._shares.get(node)
        if share is None:
            return False
        told = dict(told)
        replaced = Counter(told.pop("replaced", {}))
        self._replaced += replaced - share.replaced
        share.replaced = replaced
        self.zygote_restarts += max(0, told.get("zygote_restarts", 0) - share.told.get("zygote_restarts", 0))
        if share.told == told:
            return False
        self._count(share, -1)
        share.told = told
        self._count(share, 1)
        self.note(node)
        return True

    def slots_of(self, node: str) -> int:
        """Return how many jobs of the pool an idle node could take."""
        share = self._shares.get(node)
        return 0 if share is None else share.free

    def uses(self, node: str) -> bool:
        """Return whether a slot of the node is taken, or kept for a job."""
        share = self._shares.get(node)
        return share is not None and share.used > 0

    @property
    def works(self) -> bool:
        """Whether some node has it, and has not told that it is broken."""
        return bool(self._shares) and self._best_state != "broken"

    @property
    def open_nodes(self) -> int:
        """On how many nodes it may start jobs."""
        return sum(share.is_open and share.told["state"] == "ready" for share in self._shares.values())

    def slots_by_node(self) -> Iterator[tuple[str, int]]:
        return ((node, share.told["slots"]) for node, share in self._shares.items())

    def leave(self, node: str) -> None:
        share = self._shares.pop(node, None)
        self._count(share, -1)
        if share is not None:
            share.is_open = False
            self._free.note(node, 0, 0)
            self._freed.discard(node)
            for placement in self._placements(share):
                placement.nodes.discard(node)

    def note(self, node: str) -> None:
        """Take note that a node's slots or load have changed."""
        share = self._shares.get(node)
        if share is None:
            return
        self._free.note(node, share.free, self._owner.running_on(node))
        if share.free > 0:
            self._freed.add(node)
        else:
            self._freed.discard(node)

    def open_lines(self) -> None:
        if self._freed and self._dispatcher is not None:
            freed = [self._shares[node] for node in self._freed]
            fit, slots = [share.lines for share in freed], sum(share.free for share in freed)
            if not self._dispatcher.job_queue.open_lines(self.spec.name, fit, slots):
                self._freed.clear()

    def pass_over(self, selected: Selected) -> bool:
        if self._dispatcher is None or self._free.is_empty:
            return False
        self._dispatcher.job_queue.close_line(self.spec.name, selected)
        self.open_lines()
        return True

    def _line(self, selected: Selected) -> Placement:
        """Return the nodes of a selector. It is remembered: a job with the same one looks at no labels again."""
        found = self._lines.get(selected) if selected else self._any
        if found is None:
            self._forget_lines()
            selector = dict(selected)
            fitting = [share for share in self._shares.values() if fits(selector, share.labels)]
            found = self._lines[selected] = Placement(self._free, (share.node for share in fitting))
            for share in fitting:
                share.lines.add(selected)
        return found

    def _forget_lines(self) -> None:
        """Forget selectors of which no job waits, when there are too many: twice as many as wait, at least LINES_MAX.
        Then a look at all of them costs a line about one.
        """
        if len(self._lines) < self._lines_max or self._dispatcher is None:
            return
        has_line, name = self._dispatcher.job_queue.has_line, self.spec.name
        self._lines = {key: line for key, line in self._lines.items() if has_line(name, key)}
        for share in self._shares.values():
            share.lines &= self._lines.keys()
        self._lines_max = max(LINES_MAX, 2 * len(self._lines))

    def on_free(self) -> None:
        """Have the dispatcher look whether a job waits."""
        if self._dispatcher is not None:
            self._dispatcher.on_worker_available(self)

    @property
    def is_warm(self) -> bool:
        """Whether it has had a worker on some node, or is broken on all; or has no node to wait for."""
        shares = self._shares.values()
        return not shares or self._best_state == "broken" or any(share.told["is_warm"] for share in shares)

    # ── JobPool ──

    @property
    def _best_state(self) -> str:
        """The best that it has on any node."""
        states = ("ready", "starting", "restarting", "broken")
        return next((state for state in states if self._states[state] > 0), "restarting")

    @property
    def state(self) -> str:
        """Return the best state that it has on any node. Without a node it waits for one; so it does if it is broken
        on those that are here, and another one may be back: what waits is not to end for that.
        """
        state = self._best_state
        waits = state == "broken" and self._owner.has_other(self.spec, self._shares)
        return "restarting" if waits else state

    @property
    def detail(self) -> str:
        if not self._shares:
            return self._owner.why_no_node(self.spec)
        state = self._best_state
        details = (share.told["detail"] for share in self._shares.values() if share.told["state"] == state)
        return next((detail for detail in details if detail), "")

    @property
    def occupancy(self) -> Occupancy:
        shares = self._shares.values()
        quarantined = sum(share.told["quarantined"] for share in shares)
        free = sum(share.free for share in shares)
        counts = {
            WorkerStage.IDLE: free,
            WorkerStage.BUSY: len(self.workers),
            WorkerStage.QUARANTINED: quarantined,
        }
        return Occupancy(self.slots, self.spec.spares, counts)

    def take(self, selected: Selected = ()) -> NodeSlot | None:
        node = self._line(selected).best()
        if node is None:
            self._owner.on_short()
            return None
        slot = self._slot_of(self._shares[node])
        self._owner.on_load(node)
        return slot

    def take_on(self, node: str) -> NodeSlot:
        """Return a slot for an attempt that a node runs already."""
        return self._slot_of(self._shares.get(node) or NodeShare(node, "", {}))

    def _slot_of(self, share: NodeShare) -> NodeSlot:
        share.used += 1
        slot = NodeSlot(self, share, self._owner.now())
        self.workers[id(slot)] = slot
        return slot

    def give_back(self, worker: Any) -> None:
        if self.workers.pop(id(worker), None) is not None:
            worker.share.used -= 1
            self._owner.on_load(worker.share.node)

    def withdraw(self, worker: Any) -> None: ...

    def without_lane(self) -> Sequence[tuple[Any, bool]]:
        return ()

    def fill_soon(self) -> None:
        """Its nodes fork what they need."""

    def kill_idle(self, worker: Any) -> None:
        """Its node does, when it is waited for."""

    def record(self) -> PoolRecord:
        occupancy = self.occupancy
        shares = list(self._shares.values())
        return PoolRecord(
            name=self.spec.name,
            state=self.state,
            start_method=(shares[0].told["start_method"] if shares else "") or self.spec.start_method,
            workers_max=occupancy.workers_max,
            spares=self.spec.spares,
            idle=occupancy.idle,
            busy=occupancy.busy,
            quarantined=occupancy.quarantined,
            zygote_pid=None,
            zygote_restarts=self.zygote_restarts,
            replaced=dict(self._replaced),
            proof=shares[0].told["proof"] if shares else "",
            detail=self.detail,
            sandbox=str(self.spec.sandbox),
            starts_fail=any(share.told.get("starts_fail", False) for share in shares),
        )
