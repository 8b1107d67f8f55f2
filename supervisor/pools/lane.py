"""A lane: an idle worker that threads of the program may give calls without asking the supervisor's thread.

Runs in: supervisor (an Executor's), in its thread | a thread of the program. One lock, the holder's, guards all lanes.

    line up ──► in the line ──the worker receives it──► runs ──RAN──► over
                     └──taken back──► it waits again     └──anything else──► an ordinary attempt (`settle`, `promote`)

The first call of the line runs, or is about to; those behind it wait in the worker's socket. A call that runs through
without a word gets no job, attempt or certificate: the worker reports it with one frame. Before a worker is signalled,
or anything of it is attributed to a call, what it has not received is taken back: then it holds one call at most.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Protocol

from killable.supervisor.clock import monotonic
from killable.supervisor.models import Verdict, WorkerId
from killable.supervisor.ports import Process
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.call_message import fence_of
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.message_bounds import RESULT_BYTES_IN_PIECES_MIN
from killable.workers.protocol.messages import RAN_SECONDS, Kind

DEPTH_MAX = 64
"""The most calls in one line."""
LINE_S = 0.002
"""Calls are lined up for about so long: longer ones gain nothing by it, and a worker that is free takes them sooner."""
SHARE = 8
"""A call counts for an eighth of the average duration."""
BEFORE_S = 1.0
"""The readings that tell how a worker died are taken again when the last ones are older than this. Each is a system
call before the call is sent, and beside a thread that computes it costs the caller the interpreter, for 5 ms.
"""

_RAN = int(Kind.RAN)
_seconds_of: Callable[[bytes], tuple[float]] = struct.Struct(RAN_SECONDS).unpack_from
_SECONDS_BYTES = struct.calcsize(RAN_SECONDS)


class Given(NamedTuple):
    """A call that a worker has, as the dispatcher makes an attempt of it."""

    worker_id: WorkerId
    fence: int
    at: float
    """When it was lined up or became the first, in monotonic seconds."""


class LaneRules(Protocol):
    """What the limits of a call ask for."""

    @property
    def is_alone(self) -> bool:
        """Whether it is not lined up behind another call, nor another one behind it: limits are watched, or its items
        are streamed.
        """
        ...

    @property
    def is_watched(self) -> bool:
        """Whether its use of resources is measured: from its worker's use when it is lined up."""
        ...


class LaneCall(Protocol):
    """A call in a line."""

    lane: Lane | None
    """Where it is lined up; None: nowhere."""

    @property
    def rules(self) -> LaneRules: ...

    @property
    def definitions(self) -> object | None:
        """Return what stands for the definitions that it brings; None: it brings none."""
        ...

    def message(self, fence: int, after: int, result_buffer: int, is_defined: bool) -> tuple[bytes, Sequence[int]]:
        """Return the message that gives it to a worker, and the descriptors to pass. -1: no result buffer is passed.
        `is_defined`: the worker has its definitions.
        """
        ...

    def complete(self, result: bytes | memoryview) -> None:
        """Finish the call with its result, in the supervisor's thread. Its worker is free already. Raises nothing."""
        ...

    def begin(self) -> None:
        """Take the call out of its lane, as one that its worker has. The lock is held: it is never seen as waiting."""
        ...

    def adopt(self, given: Given) -> None:
        """Make the call an attempt, in the supervisor's thread, before anything else is done with its worker."""
        ...


class LaneHolder(Protocol):
    """Has calls for lanes (an Executor). The methods are called in the supervisor's thread."""

    lock: threading.RLock
    """Guards all lanes. Reentrant: a finalizer of the program may run while it is held."""

    def on_lane(self, lane: Lane) -> None:
        """Take a new lane."""
        ...

    def on_ran(self, lane: Lane, ran: Sequence[tuple[LaneCall, bytes | memoryview]]) -> None:
        """Finish calls that ran through, with their results. The lane has room."""
        ...

    def repair(self) -> None:
        """Complete a `line_up` or `take_back` that was interrupted. The lock is held."""
        ...

    def put_back(self, calls: Sequence[LaneCall]) -> None:
        """Let calls wait again, before all others. The lock is held. After an interrupt it is called once more."""
        ...

    def on_room(self) -> None:
        """Give waiting calls to lanes."""
        ...

    def on_early_output(self, data: bytes, stream: str) -> None:
        """Take what a worker has printed before it was ready: its initializer."""
        ...

    def on_pool_broken(self) -> None:
        """Take note that no worker will come for the waiting calls."""
        ...

    @property
    def waiting(self) -> int:
        """Return how many calls wait for a worker."""
        ...


class LaneWorker(Protocol):
    """The worker of a lane."""

    id: WorkerId
    process: Process
    last: int

    def on_ran(self, count: int, *, is_idle: bool) -> None:
        """Count calls that have run through. `is_idle`: the line is empty."""
        ...

    def on_lane_over(self, *, is_dying: bool) -> None:
        """Take note that the lane has ended. `is_dying`: the worker has no call, and was sent SIGKILL for one that had
        run through by then.
        """
        ...

    def note_result_buffer_passed(self) -> None: ...


class Brought:
    """The definitions that calls in a row have brought to a worker, with calls between them that have brought none.

    The worker runs calls in their order. So it has these definitions from the first of these calls that has run through
    until one of other definitions is sent.
    """

    __slots__ = ("definitions", "is_loaded")

    def __init__(self, definitions: object) -> None:
        self.definitions = definitions
        self.is_loaded = False
        """Whether one of these calls has run through."""


class LinedUp:
    """One place in a line."""

    __slots__ = ("at", "brought", "call", "fence", "is_alone", "passes_result_buffer", "sent")

    def __init__(
        self,
        call: LaneCall,
        fence: int,
        at: float,
        is_alone: bool,
        passes_result_buffer: bool,
        brought: Brought | None,
    ) -> None:
        self.call = call
        self.fence = fence
        self.at = at
        self.is_alone = is_alone
        """No other call is in the line, and the supervisor's thread makes an attempt of it at once."""
        self.passes_result_buffer = passes_result_buffer
        self.brought = brought
        self.sent: list[int] = []
        """Not empty: its message was sent."""


class Lane:
    """Created and ended in the supervisor's thread. Methods that say so want the holder's lock to be held."""

    __slots__ = (
        "_before_at",
        "_brought",
        "_fences",
        "_holder",
        "_is_full",
        "_line",
        "_lock",
        "_passes_result_buffer",
        "_result_buffer",
        "_room",
        "_seconds",
        "_worker",
        "is_closed",
        "is_over",
        "process",
        "quiet",
    )  # fmt: skip

    def __init__(
        self,
        worker: LaneWorker,
        holder: LaneHolder,
        fences: Iterator[int],
        *,
        result_buffer: int,
        room: float,
        quiet: bool,
    ) -> None:
        """`fences` gives each call its fence. `result_buffer` is a descriptor to pass with the first call; -1: none.
        `room` is how many calls the worker may still get.
        """
        self._worker = worker
        self.process = worker.process
        self._holder = holder
        self._lock = holder.lock
        self._fences = fences
        self._result_buffer = result_buffer
        self._passes_result_buffer = result_buffer >= 0
        """Whether the next message passes the result buffer."""
        self._room = room
        self.quiet = quiet
        """Whether the pool need not learn at once that the worker is busy: there is a spare for it already."""
        self._line: deque[LinedUp] = deque()
        self.is_closed = False
        """No call is lined up any more, at least for now."""
        self._is_full = False
        """The socket takes no more until the worker has received something."""
        self.is_over = False
        self._seconds = math.inf
        """The average duration of the latest calls; infinite: none is known."""
        self._brought = Brought(None)
        """The latest."""
        self._before_at = monotonic()
        self.process.note_before()

    # ── in any thread, with the lock held ──

    def __len__(self) -> int:
        """Return how many calls are in the line."""
        return len(self._line)

    def has_room(self, call: LaneCall) -> bool:
        """Return whether this call may be lined up now."""
        line = self._line
        if self.is_closed or self._is_full or len(line) >= self._room:
            return False
        if not line:
            return True
        return (
            len(line) * self._seconds < LINE_S
            and len(line) < DEPTH_MAX
            and self.quiet
            and not line[0].is_alone
            and not call.rules.is_alone
        )

    def line_up(self, call: LaneCall) -> bool:
        """Send a call to the worker. Return False if the socket takes no more. After an interrupt call `repair`."""
        line, rules = self._line, call.rules
        at = math.nan if line else self._note_before()  # of one behind another it is known when it is the first
        if rules.is_watched:
            self.process.note_base()
        fence, passes = next(self._fences), self._passes_result_buffer
        brought = None if call.definitions is None else self._brought_with(call.definitions)
        is_defined = brought is not None and brought.is_loaded
        after = line[-1].fence if line else self._worker.last
        message, passed = call.message(fence, after, self._result_buffer if passes else -1, is_defined)
        place = LinedUp(call, fence, at, not self.quiet or rules.is_alone, passes, brought)
        line.append(place)
        try:
            self.process.line.send(message, passed, place.sent)
        except OSError:  # no room, no memory, or the worker is gone, which is reported in a moment
            line.pop()
            self._is_full = bool(line)
            return False
        self._passes_result_buffer = False
        call.lane = self
        return True

    def _brought_with(self, definitions: object) -> Brought:
        """Return what is known of the definitions of a call that is sent now."""
        if self._brought.definitions is not definitions:
            self._brought = Brought(definitions)
        return self._brought

    def _note_before(self) -> float:
        """Take the readings from which the end of the next call is explained, unless there are recent ones. Return
        the time.
        """
        now = monotonic()
        if now - self._before_at > BEFORE_S:
            self._before_at = now
            self.process.note_before()
        return now

    def repair(self, call: LaneCall) -> bool:
        """Complete what an interrupt has left half done with this call; return whether it is in the line."""
        for place in reversed(self._line):
            if place.call is call:
                if not place.sent:
                    self._line.remove(place)
                    return False
                self._passes_result_buffer = self._passes_result_buffer and not place.passes_result_buffer
                call.lane = self
                return True
        return False

    @property
    def is_idle(self) -> bool:
        """Whether the worker has nothing to do, and may be given calls."""
        return not self._line and not self.is_closed

    @property
    def is_alone(self) -> bool:
        """Whether the supervisor's thread is to make an attempt of its only call at once (`settle`)."""
        return bool(self._line) and self._line[0].is_alone

    def has_begun(self, call: LaneCall) -> bool:
        """Return whether the worker has begun this call. One that was received behind another may be passed over."""
        line = self._line
        is_first = bool(line) and line[0].call is call
        return is_first and self.process.line.unreceived_bytes() < sum(sum(place.sent) for place in line)

    def take_back(self) -> None:
        """Let wait again what the worker has not received. After an interrupt call it once more.

        The worker may receive a call between one that is taken back and the next, and passes it over: it waits, too.
        """
        if self._line:
            unreceived = set(map(fence_of, self.process.line.take_back()))
            self._is_full = False
            kept = list(takewhile(lambda place: place.fence not in unreceived, self._line))
            if len(kept) < len(self._line):
                self._put_back(list(islice(self._line, len(kept), None)))
                self._line = deque(kept)  # now: until then an interrupt leaves all of it to be done again
            self.process.line.forget_taken()

    def _put_back(self, places: Sequence[LinedUp]) -> None:
        for place in places:
            place.call.lane = None
            self._passes_result_buffer = self._passes_result_buffer or place.passes_result_buffer
        self._holder.put_back([place.call for place in places])

    def kill(self, call: LaneCall, verdict: Verdict) -> None:
        """Send SIGKILL if the worker has this call. What it has not received was taken back before."""
        if self._line and self._line[-1].call is call:
            self.is_closed = True
            fence = self._line[-1].fence
            try:
                self.process.hold(fence)
                self.process.kill_now(fence, verdict)
            except BaseException:  # Ctrl-C: the call may end by itself now, and nobody would open the lane again
                self.is_closed = self.process.killed_for is not None
                raise

    # ── in the supervisor's thread ──

    def ran(self, frames: Sequence[Frame]) -> int:
        """Finish the calls that the first of these frames report as run through; return how many."""
        ran: list[tuple[LaneCall, bytes | memoryview]] = []
        seconds = 0.0
        with self._lock:
            self._holder.repair()
            line = self._line
            for kind, fence, sequence, payload in frames:
                if kind != _RAN or sequence or not line or line[0].fence != fence or len(payload) < _SECONDS_BYTES:
                    break
                place = line.popleft()
                place.call.lane = None
                self._worker.last = fence
                if place.brought is not None:
                    place.brought.is_loaded = True
                if place.passes_result_buffer:
                    self._worker.note_result_buffer_passed()
                is_large = len(payload) >= RESULT_BYTES_IN_PIECES_MIN
                ran.append((place.call, (memoryview(payload) if is_large else payload)[_SECONDS_BYTES:]))
                (seconds,) = _seconds_of(payload)
            if ran:
                known = self._seconds < math.inf
                self._seconds = self._seconds + (seconds - self._seconds) / SHARE if known else max(seconds, 1e-6)
                self._room -= len(ran)
                self._is_full = False
                if line:
                    line[0].at = monotonic()
        if ran:
            try:
                self._worker.on_ran(len(ran), is_idle=not line)
            finally:
                self._holder.on_ran(self, ran)
        return len(ran)

    def promote(self) -> None:
        """End the lane, and make its first call, if there is one, an attempt: the worker has reported something of it
        that is not its end alone. Reads no frame: the caller may have the first ones in hand.
        """
        with self._lock:
            self._holder.repair()
            if not self.is_alone:  # else it is an attempt's
                self.take_back()
            first = self._line.popleft() if self._line else None
            # What stood behind it and was received is passed over: the worker sends IDLE, or has sent it.
            self._put_back(self._line)
            self._line.clear()
            self.is_over = self.is_closed = True
            if first is not None:
                first.call.begin()
        # No thread can kill it for a call any more. One that was killed may look alive for some milliseconds yet.
        self._worker.on_lane_over(is_dying=first is None and self.process.killed_for is not None)
        if first is None:
            self.process.hold(None)
        else:
            self.process.hold(first.fence)
            first.call.adopt(Given(self._worker.id, first.fence, first.at))
        self._holder.on_room()

    def settle(self, *, reopens: bool = True) -> None:
        """Make an attempt of the call that the worker has, if there is one: a report of this call is about to be read,
        or it is to be stopped. Without one the lane goes on, at once or after `reopen`.
        """
        if not self.is_over and self._holds_a_call():
            self.promote()
        elif reopens:
            self.reopen()

    def reopen(self) -> None:
        """Let calls be lined up again, unless the lane is over, or its worker about to be."""
        if not self.is_over and self.is_closed and self.process.killed_for is None:
            self.is_closed = False
            self._holder.on_room()

    def revoke(self) -> None:
        """End the lane: no thread of the program may use the worker any more. May be called twice."""
        if not self.is_over:
            self._holds_a_call()
        if not self.is_over:
            self.promote()

    def _holds_a_call(self) -> bool:
        """Take back what the worker has not received, and read what it has reported; return whether it has a call.

        The only call of an attempt's is not taken back while its worker lives.
        """
        with self._lock:
            self._holder.repair()
            self.is_closed = True
            if not self.is_alone or self.process.look_for_exit():
                self.take_back()
        self.process.read_frames()  # of calls that have run through; any other frame promotes the first call
        return bool(self._line)
