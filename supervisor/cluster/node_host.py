"""A node: the supervisor of one machine, and what its head asks of it.

Runs in: supervisor, on a node.

    hello ─► the supervisor of the node belongs to this head's epoch
    do    ─► Supervisor.run, Dispatcher.stop ─► HeldAttempt ─► Outbox ─► poll

A node that has lost its head ends everything by itself: nobody else can. `lease` says when.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from killable.supervisor import clock, event_loops
from killable.supervisor.attempts.exit_outcome import message_of, without_message
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.cluster import message_checks, messages
from killable.supervisor.cluster.held_attempt import HeldAttempt
from killable.supervisor.cluster.lease import GUARD_MARGIN_S, GUARDS_LATE_S, NodeLease
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.outbox import Outbox
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.inputs import close_input, seal_large_input
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause, State, terminal_state_of
from killable.supervisor.linux import orphan_cleanup
from killable.supervisor.linux.instance_id import InstanceId
from killable.supervisor.models import Outcome, Submission, Verdict
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry.observer import Unobserved
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, over
from killable.workers.errors import Refused

OF_NODES = ("limits", "caps", "jobs", "ack_cpu_s", "stack", "unkillable_s", "proof")
"""Settings, besides the pools, by which nodes work."""
UNUSED_S = 60.0
"""How long a node waits for the first word of a head."""
DROPPED_MAX = 10_000
"""Attempts that were ended for a head which did not know them, and are remembered: the newest."""
LEFT_S = 0.5
"""How long after its last call a node that is let go stays: its answer is on its way."""

logger = logging.getLogger("killable.node")


class NodeHost:
    """One run (incarnation) of a node. Everything but `call` runs in the loop in which `start` was awaited."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], float] = clock.boottime,
        open_spawner: SpawnerFactory | None = None,
        on_end: Callable[[], None] = lambda: None,
        make_supervisor: Callable[..., Supervisor] = Supervisor,
        process: str = "",
        sweep: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """`settings` are the head's. `now` is the clock of the lease, which does not stand while the machine is
        suspended. `on_end` is called when nothing is left of a node that was let go, or whose lease is over.
        `process` is the name of this process (its own), `sweep` what ends the leftovers of another (`sweep_leftovers`).
        """
        observer = _NodeObserver(self._on_transition, self._on_slot_ready, self._on_pool_changed)
        self._supervisor = make_supervisor(_of_node(settings), open_spawner=open_spawner, observer=observer)
        self._now = now
        self._on_end = on_end
        self._process = process or InstanceId.own().name
        self._sweep_leftovers = sweep or sweep_leftovers
        self._settings = fingerprints(settings)
        self._epoch = 0
        self._head = ""
        self._beginning = asyncio.Lock()
        """Held while an epoch begins: a hello that comes twice is not answered before that is over."""
        self._lease = NodeLease(0.0)
        self._lease_timer: Timer | None = None
        self._guarded_until = 0.0
        """The lease that the guards know."""
        self._is_over = False
        self._ending: asyncio.Task[None] | None = None
        self._dropped: dict[tuple[str, int], None] = {}
        """By job and attempt: what has begun here, and was ended for a head that did not know it. The one that does may
        come: to it they are not such as have never come here.
        """
        self._origin = ""
        """Of the journal of the head (`HeadLine`)."""
        self._written: dict[str, tuple[str, int]] = {}
        """By the origin of a journal: the head that has last worked with it here, and its last transaction known."""
        self._news = asyncio.Event()
        self._warm: set[str] = set()
        """Pools that have had a worker."""
        self._forget_head()

    def _forget_head(self, through: int = 0) -> None:
        """Begin anew: no attempt is held, and of the head's none has begun but those up to `through`."""
        self._held: dict[int, HeldAttempt] = {}
        """Until the head has written their ends down."""
        self._jobs: dict[str, HeldAttempt] = {}
        self._slots: WeakKeyDictionary[Job, int] = WeakKeyDictionary()
        """The attempts of jobs whose slots are not ready again. Some never are, and nobody else has these jobs then: it
        never had a worker, or has one that no signal ends.
        """
        self._parts: dict[int, dict[int, bytes]] = {}
        """By attempt: the pieces of an input whose `run` has not come yet."""
        self._through = through
        """Every attempt up to this one has begun, or never will: an order to run it is late."""
        self._seen: set[int] = set()
        """Others that have, since orders pass each other on their way."""
        self._outbox = Outbox()
        self._news.set()  # a poll that waits is of an earlier head, which hears of it at once
        self._pools: list[Any] = []

    async def start(self) -> None:
        """Start the pools. Raise OSError, StartRefused."""
        self._clock = Clock(asyncio.get_running_loop())
        await self._supervisor.start()
        self._lease = NodeLease(UNUSED_S)
        self._lease.begin(self._now())
        self._watch_lease()
        logger.info("node_ready", extra={"incarnation": self._supervisor.instance_id})

    async def close(self) -> None:
        """End everything; return when nothing is left."""
        self._is_over = True
        self._news.set()
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        await self._supervisor.close(grace_s=0)

    # ── what the head asks ──

    async def call(self, method: str, message: bytes) -> bytes:
        """Do what a message asks for, and return the answer."""
        if self._has_ended():
            return messages.refusal(messages.LEASE_OVER)
        try:
            header, blobs = messages.unpack(message)
            message_checks.check_call(method, header, blobs)
        except ValueError as error:
            return messages.refusal(messages.NOT_UNDERSTOOD, detail=str(error))
        if header["epoch"] < self._epoch or (header["epoch"] == self._epoch and header["head"] != self._head):
            return messages.refusal(messages.STALE_EPOCH, epoch=self._epoch)
        if method == "hello":
            return await self._hello(header)
        if header["epoch"] != self._epoch or header["incarnation"] != self._supervisor.instance_id:
            return messages.refusal(messages.UNKNOWN_EPOCH)
        if written := header.get("written"):
            self._note_written(written)
        match method:
            case "poll":
                return await self._poll(header)
            case "do":
                for order, blob in zip(header["orders"], blobs, strict=True):
                    await self._do(order, blob)
                return messages.pack({})
            case "adopt":
                return await self._adopt(set(header["ns"]))
            case "workers":
                return await self._workers(uses=header.get("uses", False))
            case "kill_worker":
                return await self._kill_worker(header)
            case "leave":
                await self.close()
                self._clock.call_at(self._clock.now() + LEFT_S, self._on_end)
                return messages.pack({})
        raise ValueError(f"a call of {method!r}")

    def _note_written(self, number: int) -> None:
        head, before = self._written.get(self._origin, ("", 0))
        self._written[self._origin] = self._head, max(number, before) if head == self._head else number

    def _is_behind(self, header: Header) -> bool:
        """Return whether a head has a copy of a journal with which another one has gone on: what waits in that may have
        run.
        """
        head, number = self._written.get(header.get("origin", ""), ("", 0))
        return head not in ("", header["head"]) and header["ends"].get(head, 0) < number

    async def _workers(self, *, uses: bool) -> bytes:
        if uses:
            measured, retired = await self._supervisor.jobs.fleet.measured_workers()
            now = self._clock.now()
            workers = [each.record._asdict() | {"age_s": round(each.age_s(now), 3)} for each in measured]
            used = [each.use._asdict() for each in measured]
        else:
            workers = [record._asdict() for record in await self._supervisor.workers()]
            retired, used = await self._supervisor.retired(), []
        return messages.pack({"workers": workers, "uses": used, "retired": [each._asdict() for each in retired]})

    async def _kill_worker(self, header: Header) -> bytes:
        """Kill a worker, mostly an idle one: of a job the head knows itself. The second time it is gone."""
        try:
            record = await self._supervisor.kill_worker(header["worker_id"], wait_s=header["wait_s"])
        except Refused as refused:
            return messages.pack({"unknown": refused.message})
        return messages.pack({"worker": record._asdict()})

    async def _hello(self, header: Header) -> bytes:
        if header["before"] and not await self._sweep_leftovers(header["before"]):
            return messages.refusal(messages.NOT_SWEPT)
        async with self._beginning:
            if self._is_behind(header):
                return messages.refusal(messages.OLD_JOURNAL)
            if header["epoch"] > self._epoch:
                await self._begin_epoch(header)
        if self._has_ended():
            return messages.refusal(messages.LEASE_OVER)
        if header["epoch"] < self._epoch:
            return messages.refusal(messages.STALE_EPOCH, epoch=self._epoch)
        types = [job_type._asdict() for job_type in await self._supervisor.job_types()]
        self._pools = await self._pool_states()
        now = self._clock.now()
        held = [each.record(now) for each in self._held.values() if not each.is_claimed]
        dropped = [{"job_id": job_id, "attempt": attempt} for job_id, attempt in self._dropped]
        return messages.pack(
            {"answer": self._lease.answer(self._now()), "incarnation": self._supervisor.instance_id,
             "process": self._process, "settings": self._settings, "types": types, "pools": self._pools,
              "version": messages.installed_version(), "python": messages.PYTHON, "held": held,
             "dropped": dropped, "begun": max(self._through, *self._seen, 0)}
        )  # fmt: skip

    async def _begin_epoch(self, header: Header) -> None:
        """Belong to another head. What an earlier one has begun has ended then, or is kept for this one."""
        self._epoch, self._head, self._origin = header["epoch"], header["head"], header.get("origin", "")
        self._lease = NodeLease(header["lease_s"])
        if header["adopts"]:
            self._keep_attempts(header["given"])
        else:
            await self._end_all_attempts(header["given"])
        if not self._has_ended():
            self._lease.begin(self._now())
            self._guarded_until = 0.0
            self._tell_guards()
            self._watch_lease()

    async def _end_all_attempts(self, given: int) -> None:
        """End what an earlier head has begun: nobody reads it any more."""
        left = list(self._held.values())
        self._forget_head(given)
        await self._end_attempts(left, "another head uses the node")

    def _keep_attempts(self, given: int) -> None:
        """Keep what an earlier head has begun, until this one has said what it goes on with. Whose input was being
        sealed never runs.
        """
        begun = max(given, self._through, *self._seen)
        held, slots = sorted(self._held.items()), self._slots
        self._forget_head(begun)
        self._slots = slots
        for n, each in held:
            if each.job is not None or each.is_over:
                each.tell_anew()
                self._held[n] = each
                self._jobs[each.job_id] = each

    async def _adopt(self, claimed: set[int]) -> bytes:
        """Tell the head of the attempts that it goes on with; end the others. The second time nothing is left to do."""
        unclaimed = [held for held in self._held.values() if not held.is_claimed]
        for held in unclaimed:
            if held.n in claimed:
                held.is_claimed = True
                self._on_news(held)
            else:
                self._forget(held)
                if held.job is not None:
                    self._slots.pop(held.job, None)  # its head does not know it, nor its slot
        await self._end_attempts([held for held in unclaimed if not held.is_claimed], "its head does not know it")
        return messages.pack({})

    async def _end_attempts(self, attempts: list[HeldAttempt], reason: str) -> None:
        self._dropped |= dict.fromkeys((held.job_id, held.attempt) for held in attempts if held.job is not None)
        while len(self._dropped) > DROPPED_MAX:
            del self._dropped[next(iter(self._dropped))]
        left = [held.job for held in attempts if held.job is not None and not held.job.is_over]
        self._supervisor.jobs.stop_jobs(left, Verdict("cancelled", by="shutdown", reason=reason), 0.0)
        for job in left:
            while not job.is_over and not self._is_over:
                await job.changed()

    # ── poll ──

    async def _poll(self, header: Header) -> bytes:
        outbox, ack = self._outbox, header["ack"]
        self._lease.renew(header["answer"])
        self._tell_guards()
        for n in header["forget"]:
            if (held := self._held.get(n)) is not None:
                self._forget(held)
        due, is_due = self._clock.now() + header["wait_s"], False
        while outbox is self._outbox and not outbox.is_old(ack) and outbox.repeated(ack) is None:
            pools = await self._pool_states()
            if outbox is not self._outbox:
                break
            is_new = pools != self._pools if is_due else _but_for_counts(pools) != _but_for_counts(self._pools)
            if outbox.has_news or is_new:
                self._pools = pools
                outbox.batch({"pools": pools})
                break
            if is_due:
                break
            self._news.clear()
            left_s = due - self._clock.now()
            is_due = left_s <= 0 or not await event_loops.wait_within(self._news, left_s)
        if outbox is not self._outbox:
            return messages.refusal(messages.STALE_EPOCH, epoch=self._epoch)
        if self._has_ended():  # a node that was frozen, or suspended, delivers nothing
            return messages.refusal(messages.LEASE_OVER)
        batch = outbox.repeated(ack)
        return messages.pack({"answer": self._lease.answer(self._now())}, [] if batch is None else [batch])

    def _forget(self, held: HeldAttempt) -> None:
        self._held.pop(held.n, None)
        if held.job is not None and self._jobs.get(held.job.id) is held:  # else the job's next attempt is here, too
            del self._jobs[held.job.id]

    async def _pool_states(self) -> list[Any]:
        """Return what the head needs to know of the pools, as JSON has it."""
        pools = await self._supervisor.pools()
        self._warm.update(pool.name for pool in pools if pool.idle or pool.busy)
        return [
            {"name": pool.name, "state": pool.state, "slots": pool.workers_max, "quarantined": pool.quarantined,
             "detail": pool.detail, "zygote_restarts": pool.zygote_restarts, "proof": pool.proof,
             "replaced": dict(pool.replaced), "start_method": pool.start_method, "is_warm": pool.name in self._warm,
             "starts_fail": pool.starts_fail}
            for pool in pools
        ]  # fmt: skip

    # ── do ──

    async def _do(self, header: Header, blob: bytes) -> None:
        n = header["n"]
        is_new = n > self._through and n not in self._seen
        match header["order"]:
            case "part" if is_new:
                self._parts.setdefault(n, {})[header["place"]] = blob
            case "run" if is_new:
                self._note_begun(n)
                await self._run_or_end(n, header, blob)
            case "stop" if is_new or n in self._held:
                self._stop(n, header)

    def _note_begun(self, n: int) -> None:
        if n > self._through:
            self._seen.add(n)
        while self._through + 1 in self._seen:
            self._through += 1
            self._seen.remove(self._through)

    async def _run_or_end(self, n: int, header: Header, blob: bytes) -> None:
        """Begin a run, or tell that it never will be: no other order will come for it."""
        held = self._held[n] = self._new(n, header)
        try:
            await self._run(n, held, header, blob)
        except Exception as error:  # a part that has not come, no memory for its input, or a bug in killable
            logger.exception("run_failed", extra={"job_id": held.job_id})
            if held.job is None and not held.is_over:
                held.never_runs(Outcome("failed", "spawn", f"its node could not begin it: {error!r}"), {})

    async def _run(self, n: int, held: HeldAttempt, header: Header, blob: bytes) -> None:
        """Raise OSError, KeyError."""
        began = self._clock.now()
        parts = self._parts.pop(n, {})
        content = b"".join((*(parts[place] for place in range(header["parts"])), blob))
        input_bytes = len(content) - header.get("checkpoint_bytes", 0)
        content, checkpoint = content[:input_bytes], content[input_bytes:] or None
        submission = Submission(
            header["submitted_as"], content, tags=header["tags"], correlation_id=header["correlation_id"],
            traceparent=header.get("traceparent", ""), tracestate=header.get("tracestate", ""),
            tells_spans=header.get("tells_spans", False),
        )  # fmt: skip
        try:
            job_type = self._supervisor.type(header["type"])
        except Refused as refused:
            held.never_runs(Outcome("failed", "spawn", refused.message), {})
            return
        submission = await seal_large_input(submission)
        if self._held.get(n) is not held or held.is_over:
            close_input(submission)
            return  # a stop, or another head, came meanwhile
        limits = over(DEFAULT_LIMITS, {**header["limits"], "attempts_max": 1})
        log = EventLog(limits["output_bytes"], header["at_event"])
        log.output_bytes, log.tokens = header["output_bytes"], header["tokens"]
        self._jobs[header["job_id"]] = held
        job = self._supervisor.run(
            header["job_id"], job_type, submission, limits, held,
            log=log, attempts=header["attempt"] - 1, since=began - header["age_s"],
            waits_since=began - header["waited_s"], checkpoint=checkpoint,
        )  # fmt: skip
        held.use(job)
        self._slots[job] = n

    def _new(self, n: int, header: Header) -> HeldAttempt:
        return HeldAttempt(n, self._on_news, job_id=header["job_id"], attempt=header["attempt"])

    def _stop(self, n: int, header: Header) -> None:
        verdict = Verdict(**header["verdict"])
        held = self._held.get(n)
        job = None if held is None else held.job
        if job is not None and job.state is not State.QUEUED and verdict.code == "timeout.queue":
            return  # it waits no more, which its head has not heard yet: the node's own deadline ends it
        if job is not None:
            self._supervisor.jobs.stop(job, verdict, header["grace_s"])
        else:  # it came before its run, which then never runs
            self._note_begun(n)
            self._parts.pop(n, None)
            held = self._held.setdefault(n, self._new(n, header))
            facts = without_message(verdict.facts) | {"by": verdict.by, "reason": verdict.reason}
            outcome = Outcome(terminal_state_of(verdict.code), verdict.code, message_of(verdict), facts)
            certificate = {"requested": 0.0, "cause": verdict.code, "by": verdict.by, "reason": verdict.reason}
            held.never_runs(outcome, certificate)

    # ── what becomes of attempts ──

    def _on_transition(self, job: Job, cause: Cause) -> None:
        held = self._jobs.get(job.id)
        if held is not None:
            held.on_cause(job, cause)

    def _on_slot_ready(self, job: Job, after_ms: float) -> None:
        n = self._slots.pop(job, None)
        held = None if n is None else self._held.get(n)
        if n is not None and (held is None or held.is_told):  # else its end tells it, or another head has come
            self._outbox.add({"n": n, "kind": "slot", "after_ms": after_ms})
            self._news.set()

    def _on_pool_changed(self) -> None:
        """Tell the head at once: what it gives to a pool that is broken ends there."""
        self._news.set()

    def _on_news(self, held: HeldAttempt) -> None:
        if self._held.get(held.n) is held and held.is_claimed:
            self._outbox.note(held)
            self._news.set()

    # ── the lease ──

    def _tell_guards(self) -> None:
        """Give the guards the lease, too: they end everything if this process is frozen when it is over."""
        until = self._lease.until
        if until is not None and until > self._guarded_until + GUARDS_LATE_S:
            self._guarded_until = until
            self._supervisor.lease(until + GUARD_MARGIN_S)

    def _has_ended(self) -> bool:
        if not self._is_over and self._lease.is_over(self._now()):
            self._end("it has not heard from its head within its lease")
        return self._is_over

    def _watch_lease(self) -> None:
        """Look at the end of the lease whether it was renewed, also if no call comes."""
        if self._has_ended() or self._lease.until is None:
            return
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        due = self._clock.now() + max(0.0, self._lease.until - self._now())
        self._lease_timer = self._clock.call_at(due, self._watch_lease)

    def _end(self, why: str) -> None:
        """End everything, and never work again."""
        if self._is_over:
            return
        self._is_over = True
        logger.warning("node_ends", extra={"detail": why, "attempts": len(self._held)})
        self._news.set()
        self._ending = asyncio.ensure_future(self._end_everything())

    async def _end_everything(self) -> None:
        try:
            await self.close()
        finally:
            self._on_end()


def fingerprints(settings: Settings) -> dict[str, str]:
    """Return a text for each pool, and one by the empty name for the rest: another one for settings with which a node
    would do something else.
    """
    rest = {name: getattr(settings, name) for name in OF_NODES}
    return {spec.name: _digest(_as_written(spec)) for spec in settings.pools} | {"": _digest(rest)}


def _as_written(spec: PoolSpec) -> PoolSpec:
    return spec._replace(workers=0) if spec.by_cores else spec


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


async def sweep_leftovers(process: str) -> bool:
    """End what a process of this name has left, that of a node's last incarnation; return whether nothing is."""
    owner = InstanceId.named(process)
    if owner is None:
        return False
    try:
        return await event_loops.in_thread(asyncio.get_running_loop(), partial(orphan_cleanup.sweep_owner, owner))
    except (OSError, RuntimeError) as error:
        logger.error("sweep_failed", extra={"detail": str(error)})
        return False


def _of_node(settings: Settings) -> Settings:
    """Return the settings of a node's supervisor: what belongs to the head is left out."""
    return dataclasses.replace(settings, journal="", journal_output=False, tenants={}, keep_jobs=0, has_files=False)


class _NodeObserver(Unobserved):
    """Tells of transitions, of free slots and of pools that have changed; the head counts and logs."""

    def __init__(
        self,
        on_transition: Callable[[Job, Cause], None],
        on_slot_ready: Callable[[Job, float], None],
        on_pool_changed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._tell_pool_changed = on_pool_changed
        self._tell = on_transition
        self._tell_slot_ready = on_slot_ready

    def on_transition(self, job: Job, cause: Cause) -> None:
        self._tell(job, cause)

    def on_slot_ready(self, job: Job, after_ms: float) -> None:
        self._tell_slot_ready(job, after_ms)

    def on_pool_changed(self) -> None:
        self._tell_pool_changed()


def _but_for_counts(pools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the pools without the workers that were replaced: most jobs cost one, and are told without it. What they
    count is told with other news, or at the end of a poll.
    """
    return [{name: value for name, value in pool.items() if name != "replaced"} for pool in pools]
