"""Heads over simulated machines on virtual time, a reader for each job, and the checks that always hold.

Runs in: the test process. Each head is a real `Supervisor` over real `NodePools`, each node a real `NodeHost`. Only the
way between them, the clock, and what a node host hosts are simulated (`fake_network`, `fake_node`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from support.fake_network import FakeCarrier, FakeNetwork, Trouble
from support.fake_node import Run, input_of
from support.virtual_loop import VirtualLoop

from killable.supervisor.clock import Clock
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pool import NodePool
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.cluster.node_scaling import FIXED, Scaling
from killable.supervisor.cluster.remote_attempt import RemoteAttempt
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.node_labels import NODE, fits
from killable.supervisor.models import TERMINAL_STATES, JobEvent, StartRefused, Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.authoring.limits_and_caps import NO_CAPS
from killable.workers.errors import Refused
from sim.simulation import LIMITS

TIMES = Times()
ENDS = {"exception", "cancelled", "node_lost"}
"""The codes with which a job may end here. `worker_lost` is what only a node knows whose lease is over."""


@dataclass(eq=False)
class Submitted:
    """One job, as its reader sees it."""

    number: int
    id: str
    head: Head
    submission: Submission
    wants: dict[str, Any]
    events: int = 0
    tokens: int = 0
    attempts: int = 1
    is_cancelled: bool = False
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str | None:
        error = self.end.get("error")
        return error["code"] if error else None


@dataclass(frozen=True)
class Turn:
    """An attempt that a head has given to a node."""

    job_id: str
    attempt: int
    node: str


class ObservedPools:
    """Stands before those of a head, and notes what its queue gives to which node, in that order."""

    def __init__(self, pools: NodePools, turns: list[Turn], on_turn: Callable[[str], None]) -> None:
        """Each turn is noted in `turns`; `on_turn` is told the job's id."""
        self._pools, self._turns, self._on_turn = pools, turns, on_turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pools, name)

    def __iter__(self) -> Iterator[NodePool]:
        return iter(self._pools)

    def attempt(self, job: Job, worker: Any, fence: int) -> RemoteAttempt:
        self._turns.append(Turn(job.id, job.attempts, worker.share.node))
        self._on_turn(job.id)
        return self._pools.attempt(job, worker, fence)


@dataclass(eq=False)
class Head:
    name: str
    carrier: FakeCarrier
    supervisor: Supervisor
    is_closing: bool = False
    serving: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """As a server does it: end when another head has taken the nodes over, or when it is told to."""
        await self.supervisor.until_shutdown()
        self.is_closing = True
        await self.supervisor.close(0.0)

    async def close(self) -> None:
        assert self.serving is not None
        self.is_closing = True
        await self.supervisor.shutdown(grace_s=0.0, reason="the test is over")
        await self.serving


class ClusterSimulation:
    """`async with ClusterSimulation(nodes=3) as sim`: with one head that is started; checked, closed, checked again."""

    def __init__(
        self, *, nodes: int, workers: int = 4, seed: int = 0, trouble: Trouble | None = None, times: Times = TIMES,
        scaling: Scaling = FIXED, **settings: Any,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        pool = PoolSpec(name="a", modules=("jobs",), workers=workers, spares=0)
        settings = {"limits": LIMITS, "caps": NO_CAPS, "queue_jobs_max": 1_000_000, **settings}
        self.loop, self.times, self.scaling = loop, times, scaling
        self.settings = Settings(pools=(pool,), **settings)
        self.network = FakeNetwork([f"n{number:04}" for number in range(nodes)], self.settings, seed, trouble)
        self.runs = self.network.runs
        self.heads: list[Head] = []
        self.given: list[Turn] = []
        """In the order in which heads have given attempts to nodes."""
        self._heads = 0
        self.jobs: list[Submitted] = []
        self._readers: list[asyncio.Task[None]] = []
        self.has_lost_nodes = False
        """Whether anything has happened by which a node may be lost."""
        self.has_garbled_messages = False
        """Whether what was sent may have come as something else: then a job may end as `protocol`."""
        self.has_broken_pools = False
        """Whether a pool is broken on every machine that there is: then a job may end as `spawn`."""
        self.is_drained = False
        """Whether a node is drained with a deadline: then a job may end as `node_drained`."""
        self.failure: BaseException | None = None
        loop.set_exception_handler(self._on_loop_exception)

    def _on_loop_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failure = context.get("exception") or self.failure
        self.runs.check(False, f"{context['message']}: {context.get('exception')!r}")

    async def __aenter__(self) -> ClusterSimulation:
        logging.disable(logging.CRITICAL)
        await self.new_head()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.close()
        finally:
            await self.network.stop()
            logging.disable(logging.NOTSET)

    def _note_turn(self, head: str, job_id: str) -> None:
        self.network.accepted[job_id] = head

    # ── what an operator and clients do ──

    @property
    def head(self) -> Head:
        return self.heads[-1]

    async def new_head(self) -> Head:
        """Start a head, which takes all nodes over. One that finds none, since a message was lost, is started again."""
        while True:
            name = f"h{self._heads}"
            self._heads += 1
            carrier = FakeCarrier(self.network, name)
            real = NodePools(self.settings, carrier, self.times, scaling=self.scaling)
            pools: Any = ObservedPools(real, self.given, partial(self._note_turn, name))
            head = Head(name, carrier, Supervisor(self.settings, remote_pools=pools, clock=Clock(self.loop)))
            try:
                await head.supervisor.start()
            except StartRefused:
                continue
            self.heads.append(head)
            head.serving = asyncio.create_task(head.serve())
            return head

    async def submit(
        self, *, tenant: str = "ann", limits: dict[str, Any] | None = None, nodes: dict[str, str] | None = None,
        **wants: Any,
    ) -> Submitted | None:  # fmt: skip
        """Submit to the newest head; None: it refuses, since another has taken its nodes over."""
        head = self.head
        submission = Submission("work", input_of(**wants), tenant=tenant, limits=limits or {}, nodes=nodes or {})
        try:
            record = await head.supervisor.submit(submission)
        except Refused as refused:
            self.runs.check(refused.code == "draining", f"a submission is refused: {refused!r}")
            return None
        job = Submitted(len(self.jobs), record.job_id, head, submission, json.loads(submission.input))
        self.jobs.append(job)
        self._readers.append(asyncio.create_task(self._read(job)))
        return job

    async def cancel(self, job: Submitted) -> None:
        job.is_cancelled = True
        try:
            await job.head.supervisor.cancel(job.id, wait_s=0.0)
        except Refused as refused:
            self.runs.check(refused.code in ("already_ended", "unknown_job"), f"a cancel is refused: {refused!r}")

    def tell_pools(self, machine: str, **changes: Any) -> None:
        """Have a node tell this of its pools."""
        supervisor = self.network.machines[machine].supervisor
        assert supervisor is not None
        supervisor.tell_pools(**changes)

    async def ended(self, within_s: float = 3000.0) -> None:
        """Wait until every job has ended and its reader has seen it."""
        _, waiting = await asyncio.wait(self._readers, timeout=within_s) if self._readers else (set(), set())
        self.runs.check(not waiting, f"{len(waiting)} jobs have not ended after {within_s} s")
        for reader in self._readers:
            if reader.done() and (error := reader.exception()) is not None:
                raise error
        self.raise_violations()

    # ── the reader of a job ──

    async def _read(self, job: Submitted) -> None:
        async for batch in job.head.supervisor.events(job.id):
            for event in batch:
                self._see(job, event)

    def _see(self, job: Submitted, event: JobEvent) -> None:
        check = self.runs.check
        self._check_id(job, event)
        check(not job.end, f"{job.id}: {event.name} comes after its terminal event")
        job.events = event.id + 1
        if event.name == "token":
            check(json.loads(event.data)["text"] == str(job.tokens), f"{job.id}: {event} as token {job.tokens}")
            job.tokens += 1
        elif event.name == "retrying":
            told = json.loads(event.data)
            self._check_told(job, told["attempt"], told)
            job.attempts += 1
        elif event.name in TERMINAL_STATES:
            job.end = json.loads(event.data)
            self._check_told(job, job.attempts, job.end)
            self._check_end(job)

    def _check_id(self, job: Submitted, event: JobEvent) -> None:
        self.runs.check(event.id == job.events, f"{job.id}: event {event.id} comes after {job.events} events")

    def _check_told(self, job: Submitted, attempt: int, told: dict[str, Any]) -> None:
        """The end of an attempt is told: nothing of it runs, and nothing will."""
        check, runs = self.runs.check, self._runs_until(job, attempt)
        running = [run for run in runs if run.is_running]
        code = told["error"]["code"] if told["error"] else None
        check(not running, f"{job.id}: {code} is told, and these run: {running}")
        check(len(runs) <= attempt, f"{job.id}: {len(runs)} runs by attempt {attempt}")
        if code == "node_lost":
            check(self.has_lost_nodes, f"{job.id}: a node is lost to which nothing has happened")
            check(
                told["error"]["fenced"] in ("swept", "lease", "told"), f"{job.id}: {told} says by nothing that it is so"
            )

    def _runs_until(self, job: Submitted, attempt: int) -> list[Run]:
        """Return the runs that there may be when the end of an attempt is told: a reader hears of it at once."""
        return self.runs.of(job.id)

    def _check_end(self, job: Submitted) -> None:
        """Its end is what has happened."""
        check, code = self.runs.check, job.code
        run = next((run for run in self.runs.of(job.id) if run.attempt == job.attempts), None)
        check(code is None or self._may_be(code), f"{job.id} ends {job.end['error']}")
        asked = job.is_cancelled or job.head.is_closing
        check(code != "cancelled" or asked, f"{job.id} is cancelled by nobody: {job.end}")
        if code in (None, "exception"):
            how = "returned" if code is None else "raised"
            check(run is not None and run.how == how, f"{job.id} ends {job.end['state']}, and ran: {run}")
            check(job.tokens == job.wants["tokens"], f"{job.id} has {job.tokens} tokens of {job.wants['tokens']}")
        if code is None:
            check(job.end["result"] == job.id, f"{job.id} has the result {job.end['result']!r}")

    def _may_be(self, code: str) -> bool:
        """Return whether a job may end with a code, by what has happened."""
        happened = {
            "protocol": self.has_garbled_messages, "spawn": self.has_broken_pools, "node_drained": self.is_drained,
        }  # fmt: skip
        return code in ENDS or happened.get(code, False)

    # ── what has to hold at the end ──

    def raise_violations(self) -> None:
        if self.runs.violations:
            raise AssertionError("\n".join(self.runs.violations[:20])) from self.failure

    async def close(self) -> None:
        for head in self.heads[:-1]:
            await head.close()
        await self.ended()
        await self.head.close()
        self._check_nothing_runs("after the close")
        self._check_nodes()
        self.raise_violations()

    def forget_jobs(self) -> None:
        """Check all jobs so far, which have ended, and keep nothing of them: there may be more than memory has room
        for. An order that comes late would begin a run of which nobody knows the head: a violation, too.
        """
        self._check_nothing_runs("after all have ended")
        self._check_nodes()
        self.raise_violations()
        for kept in (self.jobs, self._readers, self.given, self.runs.all, self.network.accepted):
            kept.clear()

    def _check_nothing_runs(self, when: str) -> None:
        left = [run for runs in self.runs.all.values() for run in runs if run.is_running]
        self.runs.check(not left, f"these run {when}: {left}")

    def _check_nodes(self) -> None:
        """Every attempt ran on a node that its job selects."""
        for job in self.jobs:
            for run in self.runs.of(job.id):
                labels = {**self.network.machines[run.node].labels, NODE: run.node}
                selects = fits(job.submission.nodes, labels)
                self.runs.check(selects, f"{run} has {labels}, and its job selects {job.submission.nodes}")

    def counts(self) -> Counter[str]:
        """Return how many jobs have ended with each code; `completed` has none."""
        return Counter(job.code or job.end["state"] for job in self.jobs)

    def turns(self) -> Sequence[Submitted]:
        """Return the jobs in the order in which heads have given them to nodes, a second attempt again."""
        of = {job.id: job for job in self.jobs}
        return [of[turn.job_id] for turn in self.given]
