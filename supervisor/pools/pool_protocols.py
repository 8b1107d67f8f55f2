"""What runs jobs, as the dispatcher sees it: pools, their workers, and attempts.

Runs in: supervisor. `fleet`, `pool`, `worker` and `attempts.attempt` are this machine's side, `cluster` is that of
several machines. A worker is only ever given back to what it came from: parameters that are one are `Any` here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job import CurrentAttempt, Job
from killable.supervisor.jobs.job_queue import JobQueue, Selected
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.models import Certificate, HeadLine, JobType, Outcome, WorkerId
from killable.supervisor.pools.pool_sizing import Occupancy
from killable.supervisor.pools.wait_estimate import RunTimes
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.ports import Sample, SpawnerFactory
from killable.supervisor.records import MeasuredWorker, NodeRecord, PoolRecord, RetiredWorker, WorkerRecord
from killable.supervisor.settings import PoolSpec
from killable.workers.named_tuples import NamedTuple


class JobWorker(Protocol):
    """A slot for one attempt: a worker of this machine, or a free slot of a node."""

    @property
    def id(self) -> WorkerId: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def stage(self) -> WorkerStage: ...
    @property
    def state(self) -> str: ...
    @property
    def attempt(self) -> _Occupied | None: ...
    def take(self, attempt: Any) -> None: ...
    def release(self) -> None: ...
    def reserve(self) -> None: ...
    def unreserve(self) -> None: ...
    def is_reserved(self) -> bool: ...
    def revoke_lane(self) -> None: ...
    def when_slot_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` when its slot can take another attempt: at once, or later."""
        ...

    async def measured(self, *, alone: bool) -> Sample | None: ...
    async def until_gone(self, timeout_s: float) -> None: ...


class _Occupied(Protocol):
    @property
    def job(self) -> Job: ...


class JobPool(Protocol):
    """Workers for the job types of one table `[pools.NAME]`."""

    @property
    def spec(self) -> PoolSpec: ...
    @property
    def state(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def errno(self) -> int | None: ...
    @property
    def zygote_restarts(self) -> int: ...
    @property
    def workers(self) -> Mapping[Any, JobWorker]: ...
    @property
    def occupancy(self) -> Occupancy: ...
    def take(self, selected: Selected = ()) -> JobWorker | None:
        """Return a worker for the next attempt, on a node that fits the selector; None: there is none."""
        ...

    def open_lines(self) -> None:
        """Open the lines of the queue whose jobs can have a worker again, as many as there are workers for them."""
        ...

    def pass_over(self, selected: Selected) -> bool:
        """Return whether another line may have a worker than this one, for which there is none: then it is closed."""
        ...

    def give_back(self, worker: Any) -> None: ...
    def withdraw(self, worker: Any) -> None: ...
    def without_lane(self) -> Sequence[tuple[Any, bool]]: ...
    def fill_soon(self) -> None: ...
    def kill_idle(self, worker: Any) -> None: ...
    def record(self) -> PoolRecord: ...


class JobPools(Protocol):
    """All pools."""

    swept: bool | None

    async def start(
        self,
        clock: Clock,
        open_spawner: SpawnerFactory | None,
        instance_id: str,
        early_guard: EarlyGuard | None = None,
    ) -> None: ...
    async def until_warm(self) -> None: ...
    def lease(self, until: float) -> None:
        """Have everything end at this time, in CLOCK_BOOTTIME seconds, also if this process is frozen."""
        ...

    async def close(self) -> None: ...
    def close_in_child(self) -> None: ...
    def __iter__(self) -> Iterator[JobPool]: ...
    def with_workers(self) -> Sequence[JobPool]:
        """Return every pool that has workers, also those that were replaced."""
        ...

    def pool_of(self, job_type: JobType) -> JobPool: ...
    def run_times_of(self, job_type: JobType) -> RunTimes: ...
    def type(self, name: str) -> JobType: ...
    def types(self) -> Sequence[JobType]: ...
    def why_never(self, nodes: Mapping[str, str]) -> str:
        """Return why a job that selects its nodes by these labels can never run here; empty: it may."""
        ...

    def worker(self, worker_id: str) -> tuple[JobPool, JobWorker]: ...
    async def worker_record(self, worker: Any) -> WorkerRecord: ...
    async def worker_records(self) -> Sequence[WorkerRecord]: ...
    async def measured_workers(self) -> tuple[Sequence[MeasuredWorker], Sequence[RetiredWorker]]:
        """Return the workers with what they use now, and those that were not reused. To be called once a second at
        most.
        """
        ...

    async def retired_workers(self) -> Sequence[RetiredWorker]:
        """Return the latest RETIRED_MAX workers that were not reused, latest first."""
        ...

    def pool_records(self) -> Sequence[PoolRecord]: ...


class RunningAttempt(CurrentAttempt, Protocol):
    """One run of a job, until its tree is gone."""

    @property
    def job(self) -> Job: ...
    @property
    def worker(self) -> JobWorker: ...
    @property
    def certificate(self) -> Certificate: ...
    def begin(self, *, has_order: bool = False) -> None: ...
    def slot_ready_ms(self, now: float) -> float: ...


class HeldRun(NamedTuple):
    """An attempt that an earlier run of this server has begun, and that its node still holds."""

    node: str
    n: int
    """Its number there."""
    at_event: int
    """The id of its first event."""
    events: int
    """The id of its next event: nobody has seen more of it."""
    assigned_s: float | None
    """How long ago it was assigned; None: it never runs."""
    started_s: float | None
    """How long ago its function was entered; None: it was not."""


class RunningAttemptOwner(Protocol):
    """The dispatcher, as any attempt sees it. Only the dispatcher stores states."""

    def transition(self, job: Job, cause: Cause) -> None: ...
    def on_entered(self, attempt: RunningAttempt) -> None: ...
    def on_first_token(self, attempt: RunningAttempt) -> None: ...
    def on_ended(self, attempt: RunningAttempt, outcome: Outcome) -> None: ...


class RemotePoolsOwner(RunningAttemptOwner, Protocol):
    """The dispatcher, as pools on other machines see it."""

    def on_types(self, types: Sequence[JobType]) -> None: ...
    def on_worker_available(self, pool: JobPool) -> None: ...
    def on_pool_broken(self, pool: JobPool) -> None: ...
    def queued(self, pool: JobPool) -> int: ...
    @property
    def job_queue(self) -> JobQueue: ...
    def on_deposed(self) -> None:
        """Another head has taken the workers over: this server ends, and ends no job."""
        ...


class HeadsJournal(Protocol):
    """What heads before this one have written that is about no job."""

    @property
    def drains(self) -> Mapping[str, Mapping[str, Any]]:
        """Of nodes."""
        ...

    @property
    def epoch(self) -> int:
        """The highest of theirs; 0: none is known."""
        ...

    @property
    def line(self) -> HeadLine:
        """Which ones they were."""
        ...

    @property
    def generation(self) -> int:
        """The number of the last transaction that is on disk."""
        ...

    @property
    def is_replaced(self) -> bool:
        """Whether the last write has found the file no more in its place: another server may have it."""
        ...


class HeadNotes(Protocol):
    """Where a head writes that."""

    @property
    def journal(self) -> HeadsJournal: ...
    def drains(self, node: str, members: Mapping[str, Any] | None, answer: Callable[[str], None]) -> None:
        """Write the drain of a node down, or (None) that it has ended; call `answer` with why it never will be on disk,
        empty: it is.
        """
        ...

    def epoch(self, epoch: int, answer: Callable[[str], None], *, is_owed: bool = False) -> None:
        """Write down that this head speaks, and under which epoch; call `answer` with why it is not on disk, empty: it
        is. `is_owed`: try it until it is, and write nothing that comes after it before.
        """
        ...


class RemotePools(JobPools, Protocol):
    """Pools on other machines, which make their own attempts."""

    @property
    def trouble(self) -> str:
        """Why no machine can be reached for the moment; empty: there is nothing."""
        ...

    @property
    def nodes_lost(self) -> int:
        """How often a node was lost since the start."""
        ...

    @property
    def cpus_requested(self) -> int:
        """Processors that whoever scales the cluster was asked for last."""
        ...

    @property
    def is_deposed(self) -> bool:
        """Whether another head has taken the nodes over."""
        ...

    def use(self, owner: RemotePoolsOwner) -> None:
        """Set who is told of free workers and of what becomes of attempts."""
        ...

    def attempt(self, job: Job, worker: Any, fence: int) -> RunningAttempt: ...
    def note_recorded(self, attempt: Any) -> None:
        """Take note that what has become of an attempt is written down, or need not be."""
        ...

    def why_waits(self, pool: str, nodes: Mapping[str, str]) -> str:
        """Return why no node of a pool that fits a job's selector can have it; empty: one may."""
        ...

    def place_of(self, worker: Any) -> Mapping[str, Any]:
        """Return what the journal has to know of where an attempt begins."""
        ...

    # ── attempts of an earlier run of this server, whose starts are in the journal ──

    async def look_for(self, starts: Sequence[Mapping[str, Any]], types: Collection[str]) -> None:
        """Wait until every node that may run one of these has told what it holds, or has certainly ended it; and for
        machines that know these job types, if some may still come.
        """
        ...

    def find(self, job_id: str, start: Mapping[str, Any]) -> HeldRun | None:
        """Return the attempt of this start, if its node holds it."""
        ...

    def never_began(self, job_id: str, start: Mapping[str, Any]) -> bool:
        """Return whether its node is there as it was, and has never got it."""
        ...

    def fence_of(self, job_id: str, start: Mapping[str, Any]) -> tuple[str, str]:
        """Return by what it is known that nothing of an attempt runs any more that no node holds, and in words."""
        ...

    def take_over(self, job: Job, held: HeldRun) -> RunningAttempt: ...
    def settle(self) -> None:
        """Have all others ended that the nodes hold: nobody else asks for them."""
        ...

    def remember(self, notes: HeadNotes) -> None:
        """Go on where the head before this one has stopped, and write down what the next one has to know. Called before
        `start`, if there is a journal.
        """
        ...

    def node_records(self) -> Sequence[NodeRecord]: ...
    async def drain_node(self, name: str, *, drains: bool, deadline_s: float | None) -> NodeRecord:
        """Give a node no more jobs, or again; stop what it runs after `deadline_s`. A drain of a node that is not there
        can only be ended. Return when that is on disk. Raise Refused: unknown_node, journal_failed.
        """
        ...
