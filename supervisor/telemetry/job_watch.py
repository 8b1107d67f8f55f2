"""The changes of jobs, for the readers of the stream of jobs: one sequence of changes for all of them.

Runs in: supervisor.

    observer ──note──► the latest change of each job, in order ──ticks──► each reader, from its own place in it

Of a reader only its place is kept. A slow reader gets the latest change of each job; one that is too slow gets the
list again. The record of a job is made once for all readers, when the first one takes it. Without a reader nothing
runs; changes are noted for LINGER_S after the last one, which may have lost its connection and come back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import islice
from typing import Any

from killable.supervisor.clock import Clock, Timer, realtime
from killable.supervisor.jobs.durable_ends import READ_S, Disk
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.jobs.summary import summary_of
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.models import JobEvent
from killable.supervisor.records import JobCounts, JobRecord
from killable.supervisor.telemetry.waiting_readers import WaitingReaders
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

CHANGES_MAX = 4096
"""Jobs whose latest change is kept. A reader that is further behind gets the list anew."""
GATHER_S = 0.02
"""Seconds from a change to the tick that tells it: a job that starts at once is told once."""
TICK_S = 0.1
"""The least number of seconds between two ticks: no job is told more often."""
BEAT_S = 1.0
"""Seconds between two looks at what running jobs have emitted and at who waits, and between two counts."""
PLACES_A_BEAT = 100
"""Jobs in the queue whose places are looked at in a beat, in turns: one that leaves it moves all behind it."""
COUNT_SHARE = 1 / 500
"""Of a processor, that counting may take for one filter."""
COUNT_SHARE_OF_ALL = 1 / 50
"""The same for the filters of all readers: with more than ten each is counted less often."""
LINGER_S = 30.0
"""Seconds for which changes are noted after the last reader has left."""
TAKEN_MAX = 128
"""Changes that a reader gets at once."""
COUNTED_MAX = 64
"""Filters without a reader whose counts are kept."""
TURNS = "/v1/jobs/stream"
"""For `wakeup_turns`, which know readers by job."""


class _Change:
    """The latest change of a job."""

    __slots__ = ("data", "id", "job", "job_id", "tags", "tenant", "type")

    def __init__(self, id: int, job: Job, *, is_gone: bool) -> None:
        self.id = id
        self.job = None if is_gone else job  # one that is gone has nothing in memory any more
        self.job_id = job.id
        self.type = job.type.name
        self.tenant = job.submission.tenant
        self.tags = job.submission.tags
        self.data: bytes | None = None
        """The job as the readers see it, made for the first of them."""


class _Counted:
    """The counts of one filter."""

    __slots__ = ("counts", "due", "version")

    def __init__(self, counts: JobCounts, version: int, due: float) -> None:
        self.counts = counts
        self.version = version
        self.due = due


class _Reader:
    """One reader's place, and what it has to be told when it does not fit any more."""

    def __init__(self, wanted: JobFilter, limit: int) -> None:
        self.wanted = wanted
        self.limit = limit
        self.after = -1
        self.told: set[str] | None = None if wanted.is_fixed else set()
        """The jobs that it may show, where a job may cease to fit."""
        self.round = -1
        """Of the counts that it has."""
        self.counts: JobCounts | None = None


class _Listed(NamedTuple):
    """A list that was made for a reader."""

    of: tuple[JobFilter, int, int]
    """What was wanted, how many of it, and after which change."""
    at: float
    fitting: list[str] | None
    """Ids of all jobs that are wanted; None: no job ceases to be."""
    counts: JobCounts
    data: bytes


class JobWatch:
    """The changes of one supervisor's jobs. `note` and `note_gone` are called by who changes jobs, in the loop."""

    def __init__(
        self, registry: Registry, clock: Clock, disk: Disk | None, record_of: Callable[[Job], JobRecord],
        on_watching: Callable[[JobWatch | None], None],
    ) -> None:  # fmt: skip
        """`on_watching` is called with this when changes have to be noted, and with None when they need not."""
        self._registry = registry
        self._clock = clock
        self._disk = disk
        self._record_of = record_of
        self._on_watching = on_watching
        self._changes: OrderedDict[str, _Change] = OrderedDict()
        self._forgotten = self._latest = self._ticked = -1
        """Ids of changes: up to this one they may be missing; the latest; the latest that readers may see."""
        self._running: dict[str, tuple[Job, tuple[Any, ...]]] = {}
        """Jobs that have a worker, and what was seen of them last."""
        self._queued: OrderedDict[str, tuple[Job, int | None]] = OrderedDict()
        """Jobs in the queue, the one first that was looked at least recently, and the places that all readers have;
        None: some may have another one.
        """
        self._listed_to = -1
        """Id of the latest change when a list was made last."""
        self._places_due = 0
        """How many of them have to be looked at: something has changed since."""
        self._held: set[str] = set()
        """Jobs whose end is not on disk yet."""
        self._version = self._beaten = 0
        """How often the states of jobs have changed, and had at the last beat."""
        self._round = 0
        """Of counts: readers with those of another one get new ones, if there are any."""
        self._is_behind = False
        """Whether some counts are older than this round, as counting them takes long."""
        self._counted: OrderedDict[JobFilter, _Counted] = OrderedDict()
        self._listed: _Listed | None = None
        self._readers = 0
        self._filters: Counter[JobFilter] = Counter()
        """Those of the readers."""
        self._waiting = WaitingReaders(TURNS)
        self._tick: Timer | None = None
        self._beat: Timer | None = None
        self._end: Timer | None = None
        self._ticked_at = 0.0
        self._is_watching = self._is_closed = False

    # ── what happens ──

    def note(self, job: Job) -> None:
        """Note that a job's state may have changed, or that it is new."""
        self._version += 1
        if job.attempt is None or job.is_over:
            self._running.pop(job.id, None)
        elif job.id not in self._running:
            self._running[job.id] = job, _seen_of(job)
        if job.state is not State.QUEUED:
            self._queued.pop(job.id, None)
        elif job.id not in self._queued:
            self._queued[job.id] = job, None
        self._add(job)

    def note_gone(self, job: Job) -> None:
        """Note that a job is no longer kept."""
        self._version += 1
        self._running.pop(job.id, None)
        self._queued.pop(job.id, None)
        self._add(job, is_gone=True)

    def _add(self, job: Job, *, is_gone: bool = False) -> None:
        self._latest += 1
        self._changes.pop(job.id, None)
        self._changes[job.id] = _Change(self._latest, job, is_gone=is_gone)
        if len(self._changes) > CHANGES_MAX:
            _, oldest = self._changes.popitem(last=False)
            self._forgotten = oldest.id
        if self._readers:
            self._arm_tick()
            self._arm_beat()

    def close(self) -> None:
        """End the streams: their readers get what has changed, and are told."""
        self._is_closed = True
        self._stop()

    # ── readers ──

    async def read(self, wanted: JobFilter, limit: int, after: int) -> AsyncGenerator[list[JobEvent], None]:
        """Yield what a reader gets, from the change after `after` on, if that is known; else the list first."""
        reader = _Reader(wanted, limit)
        self._come(wanted)
        try:
            await self._registry.search(wanted)
            await wakeup_turns().turn(TURNS)  # a list takes 10 ms, and a crowd of readers comes at once
            if after >= 0 and self._forgotten <= after <= self._latest:
                self._resume(reader, after)
            else:
                yield [self._list(reader)]
            while True:
                is_closed = self._is_closed
                if is_closed:
                    self._ticked = self._latest
                if reader.after < self._forgotten:
                    yield [self._list(reader)]
                batch = self._take(reader)
                if (counts := self._counts_for(reader)) is not None:
                    batch.append(counts)
                if batch:
                    yield batch
                if reader.after < self._ticked or reader.round != self._round:
                    await wakeup_turns().turn(TURNS)
                elif is_closed:
                    yield [JobEvent(max(0, reader.after), "end", b'{"reason":"shutdown"}')]
                    return
                elif not self._is_closed:
                    await self._waiting.changed()
        finally:
            self._leave(wanted)

    def _come(self, wanted: JobFilter) -> None:
        self._readers += 1
        self._filters[wanted] += 1
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if not self._is_watching and not self._is_closed:
            # Microseconds: an id of an earlier watch, also of an earlier run of the server, is below all of this one.
            self._latest = self._ticked = self._forgotten = max(self._latest + 1, int(realtime() * 1e6))
            self._is_watching = True
            active = self._registry.active()
            self._running = {job.id: (job, _seen_of(job)) for job in active if job.attempt is not None}
            self._queued = OrderedDict((job.id, (job, None)) for job in active if job.state is State.QUEUED)
            self._on_watching(self)
        if self._ticked < self._latest and self._tick is None:  # noted while nobody read
            self._on_tick()
        self._arm_beat()

    def _leave(self, wanted: JobFilter) -> None:
        self._readers -= 1
        self._filters[wanted] -= 1
        if not self._filters[wanted]:
            del self._filters[wanted]
        if not self._readers:
            for timer in (self._tick, self._beat):
                if timer is not None:
                    timer.cancel()
            self._tick = self._beat = None
            if not self._is_closed:
                self._end = self._clock.call_at(self._clock.now() + LINGER_S, self._stop)

    def _stop(self) -> None:
        self._on_watching(None)
        for timer in (self._tick, self._beat, self._end):
            if timer is not None:
                timer.cancel()
        self._tick = self._beat = self._end = None
        self._is_watching = False
        if self._is_closed:
            self._waiting.wake()  # they take the rest
        else:
            self._changes.clear()
            self._running.clear()
            self._queued.clear()
            self._counted.clear()
            self._listed = None

    def _resume(self, reader: _Reader, after: int) -> None:
        reader.after = after
        if reader.told is None:
            return
        reader.told.update(job.id for job in self._registry.matching(reader.wanted))
        # What it shows and does not fit any more has changed since.
        tenant = reader.wanted.tenant
        reader.told.update(each.job_id for each in self._since(after) if tenant in (None, each.tenant))

    def _list(self, reader: _Reader) -> JobEvent:
        """Return the list, which is made once for readers that come at the same time and want the same."""
        reader.after = self._ticked = self._latest
        reader.round = self._round
        now = self._clock.now()
        listed, wants = self._listed, (reader.wanted, reader.limit, self._latest)
        if listed is None or listed.of != wants or now - listed.at > TICK_S:
            jobs, _ = self._registry.page(reader.wanted, reader.limit)
            counts = self._count(reader.wanted)
            summaries = [self._summary(job, is_for_all=False) for job in jobs if not self._is_held(job)]
            self._listed_to = self._latest
            data = dump_json({"jobs": summaries, "total": counts.total, "counts": counts.counts})
            # Who reads the rest of them elsewhere is told when one of those does not fit any more, too.
            fitting = None if reader.told is None else [job.id for job in self._registry.matching(reader.wanted)]
            self._listed = listed = _Listed(wants, now, fitting, counts, data)
        reader.counts = listed.counts
        reader.told = None if listed.fitting is None else set(listed.fitting)
        return JobEvent(max(0, reader.after), "jobs", listed.data)

    def _since(self, after: int) -> Iterator[_Change]:
        """Yield the changes after this one, latest first."""
        for change in reversed(self._changes.values()):
            if change.id <= after:
                return
            yield change

    def _take(self, reader: _Reader) -> list[JobEvent]:
        """Return the next changes that concern a reader, and move its place behind them."""
        changes = [change for change in self._since(reader.after) if change.id <= self._ticked]
        changes.reverse()
        batch = [event for change in changes[:TAKEN_MAX] if (event := self._event(reader, change)) is not None]
        reader.after = changes[TAKEN_MAX - 1].id if len(changes) > TAKEN_MAX else max(reader.after, self._ticked)
        return batch

    def _event(self, reader: _Reader, change: _Change) -> JobEvent | None:
        wanted, told, job = reader.wanted, reader.told, change.job
        if job is not None and self._registry.has(job):
            if wanted.fits(job):
                if change.data is None:
                    if self._is_held(job):
                        return None  # it is noted again
                    # Who has got a list since this change was noted does not take it.
                    change.data = dump_json(self._summary(job, is_for_all=change.id > self._listed_to))
                if told is not None:
                    told.add(job.id)
                return JobEvent(change.id, "job", change.data)
            is_told = told is not None and job.id in told
        elif told is None:
            is_told = wanted.fits_always(change.type, change.tenant, change.tags)
        else:
            is_told = change.job_id in told
        if told is not None:
            told.discard(change.job_id)
        return JobEvent(change.id, "gone", dump_json({"job_id": change.job_id})) if is_told else None

    def _summary(self, job: Job, *, is_for_all: bool) -> Any:
        """Return a job as readers see it, all of them or some, and note which place in the queue they have then."""
        record = self._record_of(job)
        if job.id in self._queued:
            place, known = _place_of(record), self._queued[job.id][1]
            self._queued[job.id] = job, place if is_for_all or place == known else None
        return summary_of(record)

    def _is_held(self, job: Job) -> bool:
        """Return whether a job's end is not told yet, as it is not on disk. It is noted again when it may be told."""
        if job.durable is not False or self._disk is None or self._disk.trouble or job.ended is None:
            return False
        due = job.ended + READ_S
        if self._clock.now() >= due:
            return False
        if job.id not in self._held:
            self._held.add(job.id)

            def tell() -> None:
                self._held.discard(job.id)
                if self._is_watching:
                    self._add(job)

            self._clock.call_at(due, tell)
        return True

    # ── time ──

    def _arm_tick(self) -> None:
        if self._tick is None:
            due = max(self._clock.now() + GATHER_S, self._ticked_at + TICK_S)
            self._tick = self._clock.call_at(due, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self._ticked_at = self._clock.now()
        self._ticked = self._latest
        self._waiting.wake()

    def _arm_beat(self) -> None:
        has_work = self._running or self._beaten != self._version or self._is_behind or self._places_due
        if self._beat is None and has_work and not self._is_closed:
            self._beat = self._clock.call_at(self._clock.now() + BEAT_S, self._on_beat)

    def _on_beat(self) -> None:
        self._beat = None
        for job_id, (job, seen) in self._running.items():
            if (now := _seen_of(job)) != seen:
                self._running[job_id] = job, now
                self._add(job)
        if self._beaten != self._version:
            self._places_due = len(self._queued)
        self._look_at_places()
        if self._is_behind or self._beaten != self._version:
            self._is_behind, self._beaten = False, self._version
            self._round += 1
            self._arm_tick()
        self._arm_beat()

    def _look_at_places(self) -> None:
        """Tell the jobs whose places in the queue are others than some reader may have."""
        looks = min(self._places_due, len(self._queued), PLACES_A_BEAT)
        self._places_due = self._places_due - looks if looks else 0
        for job_id in list(islice(self._queued, looks)):
            self._queued.move_to_end(job_id)
            job, told = self._queued[job_id]
            if (place := _place_of(self._record_of(job))) != told:
                self._queued[job_id] = job, place
                self._add(job)

    # ── counts ──

    def _counts_for(self, reader: _Reader) -> JobEvent | None:
        """Return the counts if they are others than a reader has."""
        if reader.round == self._round:
            return None
        reader.round = self._round
        counts = self._count(reader.wanted, may_be_old=True)
        if counts == reader.counts:
            return None
        reader.counts = counts
        return JobEvent(max(0, reader.after), "counts", dump_json({**counts.counts, "total": counts.total}))

    def _count(self, wanted: JobFilter, *, may_be_old: bool = False) -> JobCounts:
        """Count the jobs of a filter, once for all its readers."""
        known = self._counted.get(wanted)
        if known is not None:
            self._counted.move_to_end(wanted)
            if known.version == self._version:
                return known.counts
            if may_be_old and self._clock.now() < known.due:
                self._is_behind = True
                self._arm_beat()
                return known.counts
        began = self._clock.now()
        counts = self._registry.count(wanted)
        now = self._clock.now()
        share = min(COUNT_SHARE, COUNT_SHARE_OF_ALL / max(1, len(self._filters)))
        self._counted[wanted] = _Counted(counts, self._version, now + (now - began) / share)
        if len(self._counted) > COUNTED_MAX + len(self._filters):
            self._counted.popitem(last=False)
        return counts


def _place_of(record: JobRecord) -> int | None:
    return None if record.queue is None else record.queue["position"]


def _seen_of(job: Job) -> tuple[Any, ...]:
    return job.log.tokens, job.progress, job.pid
