"""The real supervisor over the simulated side of the ports, a reader for each job, and the checks that always hold.

Runs in: the test process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from support.engines import ENGINE, new_supervisor
from support.fake_disk import FakeDisk
from support.fake_spawner import FakeSpawner
from support.fake_world import SLACK_S, Faults, Script, Truth, World
from support.virtual_loop import VirtualLoop

from killable.supervisor.clock import Clock
from killable.supervisor.cluster.node_host import LEFT_S
from killable.supervisor.jobs.durable_ends import TELL_S
from killable.supervisor.models import PHASES, TERMINAL_STATES, JobEvent, Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, NO_CAPS, over
from killable.workers.error_codes import CODES
from killable.workers.errors import Refused
from killable.workers.protocol.messages import Kind

T = TypeVar("T")

STATE_ORDER = {"queued": 0, "running": 1, "stopping": 2, **dict.fromkeys(TERMINAL_STATES, 3)}
LIMITS = over(
    DEFAULT_LIMITS,
    {
        "queue_s": None,
        "start_s": None,
        "run_s": None,
        "grace_s": 2.0,
        "ack_s": 0.5,
        "processes_max": None,
        "threads_max": None,
    },
)


@dataclass(eq=False)
class Job:
    """One job as its readers see it."""

    number: int
    id: str
    submission: Submission
    events: list[JobEvent] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    cancel_accepted: bool = False
    cancelled_at: float = math.inf
    """When it was cancelled first."""
    end: dict[str, Any] = field(default_factory=dict)
    """The data of its terminal event."""
    asked: int = 0
    """How often it was cancelled: each time by another one, for a reason of its own."""
    verdicts: dict[Any, Any] = field(default_factory=dict)
    """The first that was told of each attempt: cause, by whom and why."""
    answer: JobRecord | None = None
    """The first final one."""

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def state(self) -> str:
        """The terminal state that its terminal event told, or nothing."""
        return str(self.end.get("state", ""))

    @property
    def code(self) -> str | None:
        error = self.end.get("error")
        return error["code"] if error else None

    @property
    def certificate(self) -> dict[str, Any]:
        return dict(self.end["certificate"])

    @property
    def certificates(self) -> list[dict[str, Any]]:
        """Of every attempt, the last one's at the end."""
        return [*(event["certificate"] for event in self.retries), self.certificate]

    @property
    def last_names(self) -> list[str]:
        """Its events since its last attempt, if there was another one before."""
        begins = [at for at, event in enumerate(self.events, 1) if event.name == "retrying"]
        return self.names[begins[-1] if begins else 0 :]

    @property
    def retries(self) -> list[dict[str, Any]]:
        """What it was told of attempts that were followed by another one."""
        return [json.loads(event.data) for event in self.events if event.name == "retrying"]


def pool(name: str = "a", *, workers: int = 1, spares: int = 1, jobs_per_worker_max: int = 1) -> PoolSpec:
    return PoolSpec(
        name=name, modules=("jobs",), workers=workers, spares=spares, jobs_per_worker_max=jobs_per_worker_max
    )


class Simulation:
    """`async with Simulation(seed, pools…) as sim`: started, checked all along, closed, and checked again."""

    def __init__(
        self,
        *pools: PoolSpec,
        seed: int = 0,
        faults: Faults | None = None,
        commit_s: float | None = None,
        engine: str = ENGINE,
        **settings: Any,
    ) -> None:
        """`commit_s`: it has a journal, whose commits take so long. `engine`: as ENGINE says it."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop, self.engine = loop, engine
        self.failure: BaseException | None = None
        journal = "" if commit_s is None else "journal"
        settings = {"limits": LIMITS, "caps": NO_CAPS, "unkillable_s": 3.0, "journal": journal, **settings}
        self.settings = Settings(pools=pools or (pool(),), **settings)
        self.world = World(seed, faults, self.settings.ack_cpu_s)
        self.disk = None if commit_s is None else FakeDisk(self.world, commit_s)
        self.world.on_begin = self._on_begin
        self.supervisor = new_supervisor(
            self.settings,
            open_spawner=partial(FakeSpawner, self.world),
            open_journal=self.disk,
            clock=Clock(loop),
            engine=engine,
        )
        self.jobs: list[Job] = []
        self.readers: list[asyncio.Task[None]] = []
        self.callers: list[asyncio.Task[Any]] = []
        self._checks = 0
        loop.set_exception_handler(self._on_loop_exception)

    def _on_loop_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.world.check(False, f"{context['message']}: {context.get('exception')!r}")
        if "exception" in context:
            self.failure = context["exception"]

    async def __aenter__(self) -> Simulation:
        logging.disable(logging.CRITICAL)
        await self.supervisor.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.close()
        finally:
            self.world.stop()
            logging.disable(logging.NOTSET)

    # ── what a caller does ──

    async def submit(self, script: Script, *, watched: bool = True, kind: str = "work-a", **fields: Any) -> Job:
        number = len(self.world.scripts)
        self.world.scripts.append(script)
        padding = "x" * fields.pop("padding", 0)
        submission = Submission(kind, json.dumps({"n": number, "padding": padding}).encode(), **fields)
        asked = self.supervisor.submit(submission)
        record = answer(asked) if self.disk is None else await asked
        job = Job(number, record.job_id, submission, states=[record.state])
        self.world.note("submitted", number, record.state)
        self.jobs.append(job)
        if watched:
            self.readers.append(asyncio.create_task(self._read(job)))
        return job

    def cancel(self, job: Job, grace_s: float | None = None, wait_s: float = 0.0, by: str = "") -> None:
        """Cancel from a task of its own, which `callers` keeps."""
        before = self.record(job).state
        self.world.note("cancel", job.number, before, grace_s)
        task = asyncio.create_task(self._cancel(job, before, grace_s, wait_s, by))
        self.callers.append(task)

    async def _cancel(self, job: Job, before: str, grace_s: float | None, wait_s: float, by: str) -> None:
        began = self.loop.time()
        job.cancelled_at = min(job.cancelled_at, began)
        if before != "queued" and not before.startswith(TERMINAL_STATES) and grace_s is not None:
            self.world.shortened(job.number, began + grace_s)
        by, reason = by or ("user", "operator")[job.asked % 2], f"cancel {job.asked}"
        job.asked += 1
        self._note_record(job, self.record(job))
        try:
            record = await self.supervisor.cancel(job.id, by=by, reason=reason, grace_s=grace_s, wait_s=wait_s)
        except Refused as refused:
            self.world.check(refused.code == "already_ended", f"cancel: {refused!r}")
            self.world.check(refused.record.state in TERMINAL_STATES, "already_ended before the end")
            self._note_record(job, refused.record)
            return
        self._note_record(job, record)
        self.world.check(record.state in ("cancelled", "stopping", "running"), f"cancel returned {record.state}")
        if record.state == "running":  # its job function is over and its process is being swept: it ends by itself
            self.world.check(self.truth(job).closing is not None or self.truth(job).exited_at is not None, "ignored")
        if before in ("queued", "running") and record.state in ("cancelled", "stopping"):
            job.cancel_accepted = True
        self.world.check(self.loop.time() <= began + wait_s + SLACK_S, "cancel waited longer than it was told")

    def _note_record(self, job: Job, record: JobRecord) -> None:
        """A cancel is idempotent: an attempt's verdict is the first one, and so is a job's final answer."""
        check, told = self.world.check, record.certificate or {}
        if "cause" in told:
            verdict = told["cause"], told.get("by"), told.get("reason")
            first = job.verdicts.setdefault((record.attempts, record.worker_id), verdict)
            check(verdict == first or self._crosses(job), f"job {job.number}: {first} became {verdict}")
        if record.ended:
            kept = {name: value for name, value in told.items() if name != "slot_ready"}  # the only one that may come
            final = record._replace(certificate=kept, error=record.error and dict(record.error), durable=None)
            job.answer = job.answer or final
            check(final == job.answer, lambda: f"job {job.number} was answered {job.answer}, and then {final}")

    def _crosses(self, job: Job) -> bool:
        """Return whether its node had decided to end it, or it had ended there, when a cancel was on its way."""
        truth = self.world.truths.get(job.number)
        seen = (job.cancelled_at,) if truth is None else (truth.term_at, truth.kill_at, truth.exited_at)
        return self.engine == "cluster" and any(at is not None and at <= job.cancelled_at + SLACK_S for at in seen)

    def cancel_caller(self, caller: asyncio.Task[Any]) -> None:
        """The one who asked goes away."""
        self.callers.remove(caller)
        self.readers.append(asyncio.create_task(_gone(caller)))

    async def ended(self, *jobs: Job, within_s: float = 60.0) -> None:
        """Wait until these have ended and their readers have seen it."""
        for job in jobs:
            record = await self.supervisor.wait(job.id, within_s)
            self.world.check(record.ended, f"job {job.number} is {record.state} after {within_s} s")
        await asyncio.sleep(0.002)
        self.check(everyone=True)

    def record(self, job: Job) -> JobRecord:
        """Return the record as it stands; a client waits for the disk first."""
        return self.supervisor._record(self.supervisor._registry.get(job.id))

    def _on_begin(self, truth: Truth) -> None:
        """An order has come to a worker: its job may have another attempt; with a journal, the start is on disk."""
        attempt = len(self.world.attempts(truth.number))
        job = next((job for job in self.jobs if job.number == truth.number), None)
        if job is not None and attempt > 1:
            most = self.supervisor._registry.get(job.id).limits["attempts_max"]
            self.world.check(attempt <= most, f"job {truth.number} is run {attempt} times")
        if self.disk is not None:
            row = self.disk.row_of(truth.number)
            written = row is not None and row.attempt >= attempt and not row.waits
            self.world.check(written, f"job {truth.number}: attempt {attempt} begins, and on disk is {row}")

    def truth(self, job: Job) -> Truth:
        return self.world.truths[job.number]

    def events(self, job: Job, after: int = -1) -> list[JobEvent]:
        """Return the events that can be read now."""
        found: list[JobEvent] = []
        while batch := _ready(self.supervisor.events(job.id, after)):
            found += batch
            after = batch[-1].id
            if batch[-1].data != _unmarked(batch[-1].data):
                break  # it stands where others will be, when the disk has them
        return found

    # ── the reader of a job ──

    async def _read(self, job: Job) -> None:
        async for batch in self.supervisor.events(job.id):
            for event in batch:
                self._see(job, event)

    def _see(self, job: Job, event: JobEvent) -> None:
        check = self.world.check
        check(event.id == len(job.events), f"job {job.number}: event {event.id} comes after {len(job.events)} events")
        check(not job.end, f"job {job.number}: {event.name} comes after its terminal event")
        job.events.append(event)
        self.world.note("event", job.number, event.id, event.name)
        if event.name not in TERMINAL_STATES:
            if self.disk is not None and self.settings.journal_output:
                self._check_shown(job, event)
            return
        job.end = json.loads(event.data)
        record = self.record(job)
        self._check_told(job, marked=job.end.get("durable") is False)
        check(record.state == event.name == job.state, f"job {job.number}: {record.state} and event {event.name}")
        truth = self.world.truths.get(job.number)
        if truth is not None and job.code != "unkillable":
            check(truth.tree_empty, f"job {job.number}: its terminal event came before its tree was empty")

    def _check_shown(self, job: Job, event: JobEvent) -> None:
        """An event is on disk."""
        row = self.disk and self.disk.row_of(job.number)
        written = row is not None and (event.id < row.output or row.is_over)
        self.world.check(written, f"job {job.number}: event {event.id} is shown, and on disk is {row}")

    def _check_told(self, job: Job, *, marked: bool) -> None:
        """A client is told of an end: it is on disk, or it is marked."""
        check, ended = self.world.check, self.supervisor._registry.get(job.id).ended or 0.0
        check(self.loop.time() <= ended + TELL_S + SLACK_S, f"job {job.number}: its end was told late")
        row = None if self.disk is None else self.disk.row_of(job.number)
        check(not marked or self.disk is not None, f"job {job.number}: its end is marked without a journal")
        if self.disk is not None and not marked:
            check(row is not None and row.is_over, f"job {job.number}: its end was told, and on disk is {row}")

    # ── what has to hold ──

    def check(self, everyone: bool = False) -> None:
        """After every step: every job that has not ended, and one after the other of those that have."""
        self.world.check_deadlines()
        self._checks += 1
        for job in self.jobs if everyone else self._due():
            state, last = self.supervisor._registry.get(job.id).public_state, job.states[-1]
            if state != last:
                forward = STATE_ORDER[state] > STATE_ORDER[last]
                again = last not in TERMINAL_STATES and self._attempts(job) > (state != "queued")
                self.world.check(forward or again, f"job {job.number}: {last} became {state}")
                job.states.append(state)
        waiting = [job for job in self.jobs if job.states[-1] == "queued"]
        queued = [job for job in waiting if not self._attempts(job)]  # one that comes again is let in
        self.world.check(len(queued) <= self.settings.queue_jobs_max, f"{len(queued)} jobs are queued")
        size = sum(len(job.submission.input) for job in queued)
        self.world.check(size <= self.settings.queue_bytes_max, f"{size} bytes are queued")
        self.raise_violations()

    def _attempts(self, job: Job) -> int:
        return self.supervisor._registry.get(job.id).attempts

    def _due(self) -> Iterator[Job]:
        turn = self._checks % max(1, len(self.jobs))
        return (job for at, job in enumerate(self.jobs) if at == turn or job.states[-1] not in TERMINAL_STATES)

    def raise_violations(self) -> None:
        if self.world.violations:
            trace = "\n".join(self.world.trace[-80:])
            raise AssertionError("\n".join([*self.world.violations, "", "the last that happened:", trace])) from (
                self.failure
            )

    async def close(self, grace_s: float | None = None) -> None:
        """Close and check what is left."""
        for job in self.jobs:
            if grace_s is not None:
                self.world.shortened(job.number, self.loop.time() + grace_s)
        await self.supervisor.close(grace_s)
        for task in self.callers:
            await task
        for reader in self.readers:
            await reader
        self.check(everyone=True)
        left = [process for process in self.world.alive() if not process.stuck]
        self.world.check(not left, f"alive after the close: {left}")
        self.world.stop()
        await asyncio.sleep(0 if self.engine == "local" else LEFT_S)
        self.world.check(not self.loop.timers(), f"timers are left: {self.loop.timers()}")
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        self.world.check(not tasks, f"tasks are left: {tasks}")
        self.check_ends()

    def check_ends(self) -> None:
        """Every job has ended as the record of the simulated side says."""
        for job in self.jobs:
            self._check_end(job)
        self.raise_violations()

    def check_shares(self) -> None:
        """What is counted for each tenant is what its jobs are, and none has more running than it may."""
        tenants, check = self.supervisor._tenants, self.world.check
        states = [(self.record(job), job.submission) for job in self.jobs]
        for counted, state in ((tenants.queued, ("queued",)), (tenants.running, ("running", "stopping"))):
            true = Counter(record.tenant for record, _ in states if record.state in state)
            check(counted == true, f"{counted} are counted as {state}, and are {true}")
        sizes: Counter[str] = Counter()
        for record, submission in states:
            if record.state == "queued":
                sizes[record.tenant] += len(submission.input)
        check(tenants.queued_bytes == sizes, f"{tenants.queued_bytes} are counted, and are {sizes}")
        for tenant, number in tenants.running.items():
            most = tenants.bounds(tenant).running_max
            check(most is None or number <= most, f"{tenant} runs {number} of {most}")
        self.raise_violations()

    def check_metrics(self) -> None:
        """After the close: each job was counted once, as it ended, and nothing else was."""
        metrics, check = self.supervisor._observer.metrics, self.world.check
        retries = sum(len(job.retries) for job in self.jobs)
        check(metrics.retries.total() == retries, f"{metrics.retries} are counted, {retries} were read")
        counted: Counter[str] = Counter()
        for (_, state), number in metrics.jobs.items():
            counted[state] += number
        ended = Counter(job.state for job in self.jobs)
        check(+counted == ended, f"counted are {counted}, ended have {ended}")
        check(metrics.submissions["accepted"] == len(self.jobs), f"{metrics.submissions} of {len(self.jobs)}")
        tokens = sum(job.names.count("token") for job in self.jobs)
        check(metrics.tokens == tokens, f"{metrics.tokens} tokens are counted, {tokens} were read")
        observed = self.observed()
        started = {"start": "started", "first_token": "token"}
        for name, event in started.items():
            seen = sum(job.names.count(event) if name == "start" else event in job.names for job in self.jobs)
            check(observed[name] == seen, f"{observed[name]} {name} are counted, {seen} {event} were read")
        left = most = len(self.world.truths) + len(self.world.earlier)
        if self.engine == "cluster":  # some were stopped on their node before they had a worker there
            most = sum(self.record(job).attempts for job in self.jobs)
        waits = observed["queue_wait"] - metrics.timeouts["queue"]
        check(left <= waits <= most, f"{waits} waits are counted, {left} to {most} were")
        for phase, signal in (("term_sent", "SIGTERM"), ("kill_sent", "SIGKILL")):
            sent = sum(phase in certificate for job in self.jobs for certificate in job.certificates)
            counted_sent = sum(number for labels, number in metrics.kills.items() if labels[1] == signal)
            check(counted_sent == sent, f"{counted_sent} {signal} are counted, {sent} certified")
        self.raise_violations()

    def observed(self) -> dict[str, float]:
        """Return how many values each histogram of seconds has got."""
        families = self.supervisor._observer.metrics.registry.collect()
        samples = [sample for family in families for sample in family.samples if sample.name.endswith("_seconds_count")]
        counted: Counter[str] = Counter()
        for sample in samples:
            counted[sample.name.removeprefix("killable_").removesuffix("_seconds_count")] += sample.value
        return counted

    def _check_end(self, job: Job) -> None:
        check, name = self.world.check, f"job {job.number}"
        events = self.events(job)
        if events[-1:] and events[-1].data != _unmarked(events[-1].data):  # what is not on disk was left out
            log = self.supervisor._registry.get(job.id).log
            events = log.read(-1, len(log))
        terminal = [event for event in events if event.name in TERMINAL_STATES]
        check(len(terminal) == 1 and events[-1] == terminal[0], lambda: f"{name}: its events end with {events[-3:]}")
        check([event.id for event in events] == list(range(len(events))), f"{name}: its event ids have a gap")
        events[-1] = events[-1]._replace(data=_unmarked(events[-1].data))
        seen = [*job.events[:-1], *(event._replace(data=_unmarked(event.data)) for event in job.events[-1:])]
        there = events
        if seen and seen[-1] != job.events[-1]:  # what was not on disk then was left out before the end
            there = [*events[: len(seen) - 1], events[-1]._replace(id=len(seen) - 1)]
        check(not seen or seen == there, f"{name}: its reader saw other events than there are")
        job.events, job.end = events, json.loads(terminal[0].data)
        self._note_record(job, self.record(job))
        attempts, retries = self.world.attempts(job.number), job.retries
        if self.engine == "cluster":  # an attempt may end on its node before it has a worker there
            retries = [told for told in retries if set(PHASES) & set(told["certificate"])]
        for told, truth in zip(retries, attempts, strict=False):
            self._check_certificate(name, truth, told["error"]["code"], told["certificate"])
        truth = attempts[len(retries)] if len(retries) < len(attempts) else None
        if job.cancel_accepted:
            true = job.state == "cancelled" or job.code == "unkillable" or self._crosses(job)
            check(true, f"{name}: cancelled, and ended {job.code}")
        if truth is None:
            ended_unrun = "started" not in job.last_names and job.code is not None
            check(ended_unrun, lambda: f"{name} never ran, and ended {job.end}")
            check(not set(PHASES) & set(job.certificate), lambda: f"{name} never ran: {job.certificate}")
        else:
            self._check_output(job, truth)
            self._check_certificate(name, truth, job.code, job.certificate)
            if not job.certificate.get("cause"):
                check(job.code in _codes(truth), lambda: f"{name}: {truth} ended as {job.end['error']}")

    def _check_output(self, job: Job, truth: Truth) -> None:
        """What was written before the end is there, in order, and nothing else."""
        tokens = [event.data for event in job.events if event.name == "token"]
        over_bound = truth.limits["output_bytes"] < sum(map(len, truth.tokens)) + 100 * truth.script.lines
        cut_off = over_bound or truth.nonsense or job.code == "unkillable"
        written = truth.tokens[: len(tokens)] if cut_off else truth.tokens
        self.world.check(tokens == written, lambda: f"job {job.number}: tokens {tokens}, not {truth.tokens}")
        if "started" in job.last_names:
            first = next(name for name in job.last_names if name != "log")
            self.world.check(truth.entered and first == "started", f"job {job.number}: {job.names}")

    def _check_certificate(self, name: str, truth: Truth, code: str | None, certificate: dict[str, Any]) -> None:
        check = self.world.check
        phases = [certificate[phase] for phase in PHASES if phase in certificate]
        check(phases == sorted(phases), lambda: f"{name}: the phases of its certificate go back: {certificate}")
        check(all(phase >= 0 for phase in phases), lambda: f"{name}: a phase before the request: {certificate}")
        happened = {
            "term_sent": truth.term_at,
            "delivered": truth.delivered_at,
            "acknowledged": truth.acknowledged_at,
            "kill_sent": truth.kill_at,
            "exited": truth.exited_at,
            "reaped": truth.reaped_at,
        }
        if code == "unkillable":
            del happened["exited"], happened["reaped"]  # it may go later
        for phase, moment in happened.items():
            if phase in ("exited", "reaped") and truth.outside and phase not in certificate:
                continue  # nobody could tell
            if (phase in certificate) != (moment is not None):
                check(False, f"{name}: {phase} of {truth}: {certificate}")
        cause = certificate.get("cause")
        # What does not go was asked to for a reason of its own: that stays the cause.
        true = cause in (None, code) or (code == "unkillable" and cause in CODES)
        check(true, f"{name}: ended {code} by cause {cause}")


def _codes(truth: Truth) -> set[str | None]:
    """The codes that an attempt may end with that nobody here ended."""
    script = truth.script
    if truth.closing is not None:
        kind, payload = truth.closing
        if kind is Kind.RESULT:
            return {None}
        if b'"cause":"operation"' in payload:
            return {"timeout.operation"}
        return {"input.invalid" if b'"cause":"payload"' in payload else "exception"}
    outside = {"worker_lost", "killed_externally"} if truth.outside else set()
    if truth.expired_at is not None and truth.replaced_at is not None:
        outside |= {"exit"}  # its own handler got the SIGTERM of its operation
    if script.end == "torn":
        return outside | ({"protocol"} if truth.entered else {"spawn"})
    if script.end == "exits":
        return outside | ({"exit"} if truth.entered else {"spawn", "protocol", "worker_lost"})
    if script.end == "dies":
        return outside | ({"killed_externally"} if script.signal in (1, 2, 9, 15) else {"crash"})
    return outside


def _unmarked(data: bytes) -> bytes:
    """Return a terminal event's data without the mark of an end that was not on disk yet."""
    return data.replace(b',"durable":false}', b"}")


async def _gone(task: asyncio.Task[Any]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass


def answer(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that answers at once."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise AssertionError(f"{coroutine!r} waits")


def _ready(batches: Any) -> list[JobEvent]:
    """Return the next batch of an event stream if it is there, else nothing."""
    step = batches.__anext__()
    found: list[JobEvent] = []
    try:
        step.send(None)
        step.close()  # it would wait
    except StopIteration as stop:
        found = list(stop.value)
    except StopAsyncIteration:
        pass
    try:
        batches.aclose().send(None)
    except StopIteration:
        pass
    return found
