"""Heads with a journal over simulated machines: killed at any moment, started again, followed by another one.

Runs in: the test process. Clients come back with the key of their submission, and with the id of the last event that
they have seen. What they saw of a job has to stay true under every later head.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from support import simulated_journal
from support.fake_network import FakeCarrier
from support.fake_node import Run, input_of
from support.simulated_journal import SimulatedJournal, move_away
from support.simulated_process import ProcessDied, SimulatedProcess, watch_tasks

from killable.supervisor.clock import Clock, rfc_3339
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.journal.start_refusals import JournalRefused
from killable.supervisor.models import TERMINAL_STATES, JobEvent, StartRefused, Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused
from sim.cluster_simulation import ClusterSimulation, Head, ObservedPools, Submitted

AGAIN_S = 0.2
"""After what time a client comes back, and a head that could not start is started again."""
COMMITS_S = (0.0005, 0.005, 0.05)
WRITTEN = "written"
"""The step at which something is on disk, and nobody knows of it yet; the others are those of the carrier."""
STEPS = (WRITTEN, *(f"{method} {what}" for method in ("hello", "adopt", "do", "poll") for what in ("sent", "done")))
BY_DEATH = {"node_lost", "cancelled"}
"""The codes of ends of which a head knows no more than that: their events have a gap before them."""


class VirtualWall:
    """A clock whose time of day is that of the loop, too: a head that was killed comes back later by both."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time
        clock = Clock(loop)
        self.call_at, self.wall_after = clock.call_at, clock.wall_after

    def wall(self) -> str:
        return rfc_3339(self.now())

    def age_s(self, at: str) -> float:
        return max(0.0, self.now() - datetime.fromisoformat(at).timestamp())

    def left_s(self, at: str) -> float:
        return max(0.0, datetime.fromisoformat(at).timestamp() - self.now())


@dataclass(eq=False)
class Trap:
    """Kills a head at the nth time that it comes to a step."""

    step: str
    nth: int

    def springs(self, step: str) -> bool:
        self.nth -= step == self.step
        return self.nth == 0 and step == self.step


@dataclass(eq=False)
class JournaledHead(Head):
    process: SimulatedProcess = field(kw_only=True)
    journals: list[SimulatedJournal] = field(kw_only=True, default_factory=list)

    async def serve(self) -> None:
        """One that is deposed is not `is_closing`: it ends no jobs."""
        await self.supervisor.until_shutdown()
        await self.supervisor.close(0.0)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.carrier.is_cut_off = True
        for journal in self.journals:
            journal.die()


class JournaledCluster(ClusterSimulation):
    """With a head that is started again whenever it has died, after `down_s`."""

    def __init__(self, folder: str, *, seed: int = 0, commit_s: float = COMMITS_S[0], **settings: Any) -> None:
        self._folder, self._commit_s = Path(folder), commit_s
        self._journals = 0
        super().__init__(seed=seed, journal=str(self._folder / "journal-0"), **settings)
        watch_tasks(self.loop)
        self.tokens: dict[str, dict[int, bytes]] = {}
        """What clients have read, by job and event id."""
        self.gaps: Counter[str] = Counter()
        self.trap: Trap | None = None
        self.is_disk_full = False
        self.down_s: Callable[[], float] = lambda: 0.05
        self.kills: Counter[str] = Counter()
        """By the step at which heads were killed."""
        self._serves = asyncio.Event()
        self._follows: asyncio.Future[None] = self.loop.create_future()
        """Done while another head is started beside the one that serves."""
        self._keeper: asyncio.Task[None] | None = None

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        if task is None or not any(head.process.is_dead and head.process.owns(task) for head in self._all_heads):
            super()._on_loop_exception(loop, context)

    # ── heads ──

    @property
    def _all_heads(self) -> list[JournaledHead]:
        return [head for head in self.heads if isinstance(head, JournaledHead)]

    async def __aenter__(self) -> JournaledCluster:
        await super().__aenter__()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def _keep(self) -> None:
        """Do what a service manager does."""
        while True:
            head = self.head
            assert isinstance(head, JournaledHead)
            await asyncio.wait((head.process.died, self._follows), return_when=asyncio.FIRST_COMPLETED)
            if self._follows.done():  # another head is started beside it
                await self._serves.wait()
                self._follows = self.loop.create_future()
                continue
            self._serves.clear()
            await asyncio.sleep(self.down_s())
            await self.new_head()

    @property
    def is_served(self) -> bool:
        return self._serves.is_set()

    async def new_head(self) -> JournaledHead:
        self._serves.clear()
        while True:
            head = self._make_head()
            self.heads.append(head)  # it counts from now on: it may be killed while it starts
            try:
                await head.process.do(head.supervisor.start())
            except (StartRefused, ProcessDied) as error:
                self.runs.check(not isinstance(error, JournalRefused), f"the journal is refused: {error}")
                head.kill()
                await asyncio.sleep(AGAIN_S)
                continue
            head.serving = head.process.begin(self._serve(head))
            self._serves.set()
            return head

    def copy_of_journal(self) -> str:
        """Return the path of a copy of the journal as it is now."""
        self._journals += 1
        there = str(self._folder / f"journal-{self._journals}")
        simulated_journal.copy(self.settings.journal, there)
        return there

    async def head_over(self, journal: str) -> JournaledHead | None:
        """Start a head with this journal beside the one that serves: no client knows it. None: it is refused."""
        head = self._make_head(journal)
        self.heads.insert(0, head)
        try:
            await head.process.do(head.supervisor.start())
        except StartRefused:
            head.kill()
            return None
        head.serving = head.process.begin(self._serve(head))
        return head

    def _make_head(self, journal: str = "") -> JournaledHead:
        settings = replace(self.settings, journal=journal or self.settings.journal)
        name = f"h{self._heads}"
        self._heads += 1
        carrier = FakeCarrier(self.network, name)
        real = NodePools(settings, carrier, self.times, scaling=self.scaling)
        pools: Any = ObservedPools(real, self.given, partial(self._note_turn, name))
        journals: list[SimulatedJournal] = []
        process = SimulatedProcess(self.loop)

        def open_journal(path: str, on_works: Callable[[], None]) -> SimulatedJournal:
            on_written = partial(self._on_step, head, WRITTEN)
            journal = SimulatedJournal(
                path, on_works, commit_s=self._commit_s, on_written=on_written, is_full=lambda: self.is_disk_full
            )
            journals.append(journal)
            return journal

        clock: Any = VirtualWall(self.loop)
        supervisor = Supervisor(settings, remote_pools=pools, open_journal=open_journal, clock=clock)
        head = JournaledHead(name, carrier, supervisor, process=process, journals=journals)
        carrier.on_step = partial(self._on_step, head)
        return head

    def _on_step(self, head: JournaledHead, step: str) -> None:
        if self.trap is not None and head is self.head and not head.process.is_dead and self.trap.springs(step):
            self.trap = None
            self.kill_head(step)

    def kill_head(self, step: str = "") -> None:
        head = self.head
        assert isinstance(head, JournaledHead)
        if not head.process.is_dead:
            self.kills[step] += 1
            head.kill()

    async def _serve(self, head: JournaledHead) -> None:
        await head.serve()
        head.kill()  # it has ended by itself: its clients are cut off

    async def second_head(self) -> None:
        """Start another head, which has the journal and takes the nodes over, while the one before it lives on."""
        earlier, here = self.head, self.settings.journal
        assert isinstance(earlier, JournaledHead)
        if not self._serves.is_set() or self._follows.done():
            return
        self._journals += 1
        there = str(self._folder / f"journal-{self._journals}")
        move_away(here, there)
        self.settings = replace(self.settings, journal=there)
        self._follows.set_result(None)
        await self.new_head()

    # ── clients ──

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[JournaledHead]:
        """Give the head that serves now; what is interrupted by its death is left."""
        await self._serves.wait()
        head = self.head
        assert isinstance(head, JournaledHead)
        try:
            yield head
        except ProcessDied:
            await asyncio.sleep(AGAIN_S)

    async def submit(
        self, *, tenant: str = "ann", limits: dict[str, Any] | None = None, nodes: dict[str, str] | None = None,
        kind: str = "work", **wants: Any,
    ) -> Submitted:  # fmt: skip
        """Submit until it is accepted; a client whose head has died repeats itself."""
        number = len(self.jobs)
        key = f"key-{number}"
        submission = Submission(
            kind, input_of(**wants), tenant=tenant, limits=limits or {}, nodes=nodes or {}, idempotency_key=key,
            body_digest=key,
        )  # fmt: skip
        job = Submitted(number, "", self.head, submission, json.loads(submission.input))
        self.jobs.append(job)
        while not job.id:
            async with self._served() as head:
                try:
                    record = await head.process.do(head.supervisor.submit(submission))
                    job.id, job.head = record.job_id, head
                except Refused as refused:
                    known = ("draining", "journal_failed")
                    self.runs.check(refused.code in known, f"a submission is refused: {refused!r}")
                    await asyncio.sleep(AGAIN_S)
        self.tokens[job.id] = {}
        self._readers.append(asyncio.create_task(self._read(job)))
        return job

    async def cancel(self, job: Submitted) -> None:
        job.is_cancelled = True
        async with self._served() as head:
            try:
                await head.process.do(head.supervisor.cancel(job.id, wait_s=0.0))
            except Refused as refused:
                self.runs.check(refused.code in ("already_ended",), f"a cancel is refused: {refused!r}")

    async def _read(self, job: Submitted) -> None:
        while not job.end:
            async with self._served() as head:
                await head.process.do(self._read_from(head, job))
            if not job.end:  # what it has said of the end was no promise
                await asyncio.sleep(AGAIN_S)

    async def _read_from(self, head: JournaledHead, job: Submitted) -> None:
        job.head = head
        async for batch in head.supervisor.events(job.id, job.events - 1):
            for event in batch:
                if event.name in TERMINAL_STATES and event.data.endswith(b'"durable":false}'):
                    continue  # no promise: the next head may know better
                self._see(job, event)

    def _see(self, job: Submitted, event: JobEvent) -> None:
        if event.name == "started":
            job.attempts, job.tokens = json.loads(event.data)["attempt"], 0
        elif event.name == "restored":
            told = json.loads(event.data)
            self._check_told(job, told["attempt"], told)
            job.attempts = max(job.attempts, told["attempt"])
        elif event.name == "token":
            self.tokens[job.id][event.id] = event.data
        super()._see(job, event)

    def _runs_until(self, job: Submitted, attempt: int) -> list[Run]:
        """A reader that comes back hears of it later, when the next attempt may run."""
        return [run for run in self.runs.of(job.id) if run.attempt <= attempt]

    def _check_id(self, job: Submitted, event: JobEvent) -> None:
        """No event twice; and none is left out, but what a dead head has told of attempts that nobody has any more."""
        if event.id == job.events:
            return
        is_after = event.id > job.events and len(self.heads) > 1 and not self.settings.journal_output
        why = self._why_gap(job, event) if is_after else ""
        self.gaps[why] += 1
        self.runs.check(bool(why), f"{job.id}: event {event.id} {event.name} comes after {job.events} events")

    def _why_gap(self, job: Submitted, event: JobEvent) -> str:
        if event.name == "restored":
            return "it waits again"
        if event.name in TERMINAL_STATES:
            error = json.loads(event.data)["error"]
            return "it was lost" if error is not None and error["code"] in BY_DEATH else ""
        began = [run.first_event for run in self.runs.of(job.id)]
        return "an attempt that was not read" if event.id in began else ""

    # ── what has to hold at the end ──

    async def close(self) -> None:
        await self.ended()
        await self._serves.wait()
        assert self._keeper is not None
        self._keeper.cancel()
        head = self.head
        assert isinstance(head, JournaledHead)
        for job in self.jobs:
            await self._check_history(head, job)
        head.is_closing = True
        assert head.serving is not None
        await head.process.do(head.supervisor.shutdown(grace_s=0.0, reason="the test is over"))
        await asyncio.wait((head.process.died,))
        for other in self._all_heads:
            other.kill()
        left = [run for runs in self.runs.all.values() for run in runs if run.is_running]
        self.runs.check(not left, f"these run after the close: {left}")
        self._check_keys()
        self._check_nodes()
        self.raise_violations()

    async def _check_history(self, head: JournaledHead, job: Submitted) -> None:
        """The last head tells what the clients have been told."""
        check, supervisor = self.runs.check, head.supervisor
        record: JobRecord = await head.process.do(supervisor.get(job.id))
        code = None if record.error is None else record.error["code"]
        check((record.state, code) == (job.end["state"], job.code), f"{job.id} was {job.end}, and is {record}")
        events = [event async for batch in supervisor.events(job.id, follow=False) for event in batch]
        ids = [event.id for event in events]
        check(ids == list(range(ids[0], ids[0] + len(ids))), f"{job.id} has the events {ids}")
        names = [event.name for event in events if event.name in TERMINAL_STATES]
        check(names == [record.state], f"{job.id} has the ends {names}")
        check(
            events[-1].name in TERMINAL_STATES and events[-1].id == job.events - 1, f"{job.id} ends with {events[-1]}"
        )
        tokens = self.tokens[job.id]
        for event in events:
            same = event.name != "token" or tokens.get(event.id) == event.data
            check(same, f"{job.id}: {event} was {tokens.get(event.id)}")

    def _check_keys(self) -> None:
        """What was submitted with one key has run as one job."""
        ids = {job.id for job in self.jobs}
        check, others = self.runs.check, self.runs.all.keys() - ids
        check(not others, f"these jobs have run, and nobody knows them: {others}")
        check(len(ids) == len(self.jobs), "two submissions are one job")


@asynccontextmanager
async def journaled_cluster(**settings: Any) -> AsyncIterator[JournaledCluster]:
    """Give a cluster with a journal in memory, where there is a place for that."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=place) as folder:
        async with JournaledCluster(folder, **settings) as sim:
            yield sim
