"""The head's side of one node: hello, polls without end; and when it counts as lost.

Runs in: supervisor, on the head.

    joining ─hello─► live ─poll overdue─► suspect ─answer─► live
                                             ├─ its lease is over: lost ─► joining, in a new incarnation
                                             └─ its process has ended, and the next one has swept: lost ─► live
    live ─idle─► released ─needed─► joining
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from killable.supervisor import event_loops
from killable.supervisor.clock import Clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import Carrier, CarrierError, HostGone
from killable.supervisor.cluster.lease import Times, end_of_node
from killable.supervisor.cluster.messages import Header
from killable.supervisor.cluster.node_calls import Batches, NodeCalls
from killable.supervisor.cluster.node_drain import NodeDrain
from killable.supervisor.cluster.order_sender import ASK_AGAIN_S, OrderSender
from killable.supervisor.cluster.remote_attempt import RemoteAttempt
from killable.supervisor.jobs.node_labels import Labels
from killable.supervisor.models import HeadLine
from killable.supervisor.records import NodeRecord
from killable.workers.named_tuples import NamedTuple

JOIN_AGAIN_S = 1.0
"""How long to wait until a node that cannot be used is tried again."""
REFUSED_AGAIN_S = 60.0
"""How long at most, twice as long each time, if it is there and is refused: each time it is started anew, and imports
what its jobs do.
"""
HELLO_S = 30.0
"""How long a hello may take: the node starts its pools before it answers, and ends what an earlier head has left."""
FORGET_MAX = 4096
"""Attempts that one poll names as written down."""
SHORTEST_S = 0.001
"""No wait is shorter: a timer may be some nanoseconds early, and what is left then would be waited for again and again.
"""
LEAVE_S = 15.0
"""How long a node may take to end its pools when it is let go."""

_SWEPT = "swept", "its process had ended, and the next one has ended what was left of it"
_LEFT = "told", "it had other settings, and has ended everything before it was started anew"
"""By what the end of an incarnation is known, and in words."""

TAKEN_OVER = "another head has taken the nodes over: one has them at a time"
OLD_JOURNAL = (
    "node {} was used by another server with this journal, which has gone on since this copy of it was made: what waits"
    " here may have run there. If that server is gone, start this one again when the node's lease is over"
)

logger = logging.getLogger("killable.cluster")


class Epoch(NamedTuple):
    """Under which a head speaks."""

    number: int
    head: str
    """The instance id of its supervisor."""


class LinkOwner(Protocol):
    """All nodes, as the link of one of them sees them."""

    @property
    def epoch(self) -> Epoch: ...
    @property
    def adopts(self) -> bool:
        """Whether this head may go on with attempts of an earlier one."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether it is decided which ones."""
        ...

    @property
    def is_deposed(self) -> bool:
        """Whether another head has the nodes now."""
        ...

    @property
    def line(self) -> HeadLine:
        """The heads that had this one's journal, its origin never empty; without a journal there are none."""
        ...

    @property
    def written(self) -> int:
        """The number of the last transaction in the journal of a head that has begun to work; else 0."""
        ...

    def has_settings(self, link: NodeLink, told: dict[str, str]) -> bool:
        """Return whether a node works by this head's settings (`fingerprints`)."""
        ...

    def on_joined(self, link: NodeLink, hello: Header) -> str:
        """Take a node in. Return why it cannot be used; empty: it can."""
        ...

    def on_pools(self, link: NodeLink, pools: list[dict[str, Any]]) -> None: ...
    def on_lost(self, link: NodeLink) -> None: ...
    def on_released(self, link: NodeLink) -> None:
        """It was given back."""
        ...

    async def on_newer_epoch(self, number: int) -> bool:
        """Take note that another head has used a node, which this one has not. Return whether it was an earlier one, so
        that this one may take the node under a higher epoch; else it is deposed.
        """
        ...

    def on_deposed(self, why: str = TAKEN_OVER) -> None:
        """Another head has taken a node from this one; or has one that this one must not take."""
        ...


class NodeLink:
    """One node, through all of its incarnations."""

    def __init__(self, name: str, carrier: Carrier, times: Times, clock: Clock, owner: LinkOwner) -> None:
        self.name = name
        self.state = "joining"
        self.detail = ""
        self.incarnation = ""
        self.labels: Labels = {}
        self.trouble = ""
        """What is wrong with its machine, although it is used."""
        self.drain = NodeDrain(clock, self.end_drained)
        self.idle_since: float | None = None
        """Since when it has had no job."""
        self.gave: dict[str, int] = {}
        """By pool: the slots that it had when it was given back, until it has joined again."""
        self._needed = asyncio.Event()
        """Set when a node that was given back is needed again."""
        self.leaves_at: float | None = None
        """When Ray takes its machine away, if it has said so (`Machine.leaves_at`)."""
        self._process = ""
        """That of the incarnation, by the name that everything which it starts carries."""
        self.attempts: dict[int, RemoteAttempt] = {}
        """Those that are not over."""
        self.held: dict[tuple[str, int], Header] = {}
        """What the node holds of an earlier head, by job and attempt, until it is settled what becomes of it."""
        self.dropped: set[tuple[str, int]] = set()
        """What it held, and has ended for a head that did not know it: until then, too."""
        self.ended: dict[str, tuple[str, str]] = {}
        """Incarnations that have certainly ended everything: by what that is known, and in words."""
        self._recorded: set[int] = set()
        """Attempts whose ends are written down, until the node has heard of it."""
        self._ended: dict[int, RemoteAttempt] = {}
        """Those that are, and whose slot is not ready again."""
        self.decided = asyncio.Event()
        """Set when it has joined, or cannot be used, or is lost."""
        self._carrier = carrier
        self._times = times
        self._clock = clock
        self._owner = owner
        self._is_ending = False
        """Whether its last incarnation ends: the next one begins in a moment."""
        self._given = 0
        self._epoch = owner.epoch
        """Under which it was greeted: the head may have come to know of a later one since, from another node."""
        self._heard: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self.calls = NodeCalls(name, carrier, self._about, times.patience_s)
        self._orders = OrderSender(self, times.patience_s, clock, self._run, self._closing)

    @property
    def is_open(self) -> bool:
        """Whether it may get another job."""
        return self.state == "live" and not self.drain.reason

    @property
    def is_given_back(self) -> bool:
        """Whether it is let go, and has not joined again."""
        return bool(self.gave)

    @property
    def is_gone(self) -> bool:
        """Whether it runs nothing, and does not answer."""
        return self.state in ("joining", "lost", "refused", "released") and not self.attempts

    def start(self) -> None:
        self._run(self._live())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _about(self) -> Header:
        number, head = self._epoch
        return {"epoch": number, "head": head, "incarnation": self.incarnation, "written": self._owner.written}

    async def close(self) -> None:
        """Let the node go, when it has no attempts; return when it has answered, or is not expected to.

        A head that has not come so far as to adopt what runs there leaves it to the next one; and one that was replaced
        leaves it to the other.
        """
        self._closing.set()
        if self.state in ("live", "suspect") and self._may_end_it:
            try:
                await self.calls.call("leave", {}, LEAVE_S)
            except (TimeoutError, CarrierError):
                logger.warning("node_not_told", extra={"node": self.name})
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _may_end_it(self) -> bool:
        """Whether nothing runs there that another head may go on with."""
        return not self._owner.adopts or (self._owner.is_settled and not self._owner.is_deposed)

    def record(self, slots: int) -> NodeRecord:
        now = self._clock.now()
        heard_s = None if self._heard is None else round(now - self._heard, 3)
        is_drained = bool(self.drain.reason) and self.state == "live"
        left_s = self.drain.left_s
        return NodeRecord(
            self.name, "draining" if is_drained else self.state, self.incarnation, slots, len(self.attempts), heard_s,
            self.detail or self.drain.reason or self.trouble, dict(self.labels),
            None if left_s is None else round(left_s, 3), self._orders.delay_s,
        )  # fmt: skip

    # ── given back ──

    def give_back(self, slots: dict[str, int], why: str) -> None:
        """Let a live node without attempts go, until it is needed again."""
        self.gave = slots
        self._needed.clear()
        self._note("released", why)
        self._owner.on_released(self)
        self._run(self._have_it_leave())

    async def _have_it_leave(self) -> None:
        """Tell the node until it has answered, or its lease is over."""
        while self.state == "released" and (left_s := self._left_s()) > 0:
            try:
                await self.calls.call("leave", {}, min(LEAVE_S, left_s))
                return
            except (TimeoutError, CarrierError):
                await event_loops.wait_within(self._closing, ASK_AGAIN_S)

    async def _have_it_end(self, incarnation: str) -> None:
        """Tell a node that is not used to leave. If it does not hear it, its lease ends."""
        with contextlib.suppress(TimeoutError, CarrierError):
            await self.calls.call("leave", {"incarnation": incarnation}, LEAVE_S)

    def take_again(self) -> None:
        """Use a node again that was given back."""
        self._note("joining", "it is needed again")
        self._needed.set()

    def end_drained(self) -> None:
        """Stop what runs here, each attempt with its own grace: another node may have the job then."""
        for attempt in tuple(self.attempts.values()):
            attempt.on_drained(self.drain.reason)

    # ── its life ──

    async def _live(self) -> None:
        hello: Header | None = None
        again_s = JOIN_AGAIN_S
        while not self._closing.is_set():
            is_used = False
            try:
                hello = hello or await self._hello()
                is_used = hello is not None and self._take(hello)
                hello = await self._converse() if is_used else None
            except Exception as error:  # a bug in killable: its jobs end, and are told
                logger.exception("node_link_failed", extra={"node": self.name})
                hello = None
                if is_used := is_used or self.state == "live":
                    await event_loops.wait_within(self._closing, self._left_s())
                else:
                    self._note_trouble(f"the server has failed at it: {error!r}")
            if is_used:
                if self.is_given_back:
                    await self._needed.wait()
                    continue
                if not self._closing.is_set():
                    self._lose(*(_SWEPT if hello else self._lease_over))
                if hello:
                    continue
            hello = None
            if not self._is_ending:
                self.decided.set()
            again_s = min(2 * again_s, REFUSED_AGAIN_S) if self.state == "refused" else JOIN_AGAIN_S
            await event_loops.wait_within(self._closing, again_s)

    async def _hello(self, before: str = "") -> Header | None:
        """Have a node host there, and begin to use it under the head's epoch; return its answer, None if it has none.

        `before` is the process of an incarnation that may have left something: the new one ends that first, or refuses.
        """
        owner = self._owner
        if owner.is_deposed:  # a node host that this head had started would be taken from the other one
            return None
        if not before:  # else the one before it may be there still
            self._epoch = owner.epoch
        asked = {
            "lease_s": self._times.lease_s, "given": self._given, "before": before, "adopts": owner.adopts,
            "origin": owner.line.origin, "ends": owner.line.ends,
        }  # fmt: skip
        try:
            async with asyncio.timeout(HELLO_S):
                await self._carrier.start(self.name)
            hello, _ = await self.calls.call("hello", asked, HELLO_S)
            if "refused" not in hello and not owner.has_settings(self, hello["settings"]):
                answer, _ = await self.calls.call("leave", {"incarnation": hello["incarnation"]}, HELLO_S)
                self._is_ending = True
                if "refused" in answer:
                    return None
                self.ended[hello["incarnation"]] = _LEFT
                owner.on_lost(self)
                self._note_trouble("it was started with other settings, and is started anew")
                return None
        except (TimeoutError, CarrierError) as error:
            self._note_trouble(f"no answer{f': {error}' if str(error) else ' in time'}")
            return None
        if hello.get("refused") == messages.STALE_EPOCH:
            if self._heard is not None:
                owner.on_deposed()
            elif await owner.on_newer_epoch(hello["epoch"]):
                return await self._hello()
            return None
        if hello.get("refused") == messages.OLD_JOURNAL:
            owner.on_deposed(OLD_JOURNAL.format(self.name))
            return None
        if hello.get("refused") == messages.NOT_UNDERSTOOD:
            why = (
                f"it does not understand this server ({hello.get('detail')}): install the same killable on each machine"
            )
            self._note("refused", why)
            return None
        if "refused" in hello or hello["incarnation"] == self.incarnation:
            self._is_ending = True
            self._note_trouble("the last incarnation of the node is still ending")
            return None
        return hello

    def _take(self, hello: Header) -> bool:
        """Begin an incarnation; return whether it can be used."""
        self._is_ending = False
        self._given = max(self._given, hello["begun"])
        self._recorded.clear()
        self.incarnation, self._process = hello["incarnation"], hello["process"]
        self.gave, self.idle_since = {}, None
        self._answer, self._heard = hello["answer"], self._clock.now()
        self._ack = 0
        if why := self._owner.on_joined(self, hello):
            if self._may_end_it:
                self._run(self._have_it_end(self.incarnation))
            self.incarnation = ""
            self._note("refused", why)
            return False
        self.held = {(each["job_id"], each["attempt"]): each for each in hello["held"]}
        self.dropped = {(each["job_id"], each["attempt"]) for each in hello["dropped"]}
        self._note("live", "")
        self._owner.on_pools(self, hello["pools"])
        self.decided.set()
        if self._owner.is_settled:
            self.settle()
        return True

    def _note(self, state: str, detail: str) -> None:
        if (state, detail) == (self.state, self.detail):
            return
        level = logging.INFO if state in ("live", "joining") else logging.WARNING
        level, event = (logging.INFO, "node_detail") if state == self.state else (level, f"node_{state}")
        self.state, self.detail = state, detail
        logger.log(level, event, extra={"node": self.name, "detail": detail})  # a state is told once: it is counted

    def _note_trouble(self, why: str) -> None:
        """Note why it does not join. What it was refused for stays: that is to be mended."""
        if self.state != "refused":
            self._note(self.state, why)

    async def _converse(self) -> Header | None:
        """Poll until the node is lost. Return the hello of its next incarnation, if that has proven the end of this
        one; None: its lease is over, by the clock of the head.
        """
        times = self._times
        while not self._closing.is_set() and not self.is_given_back and (left_s := self._left_s()) > 0:
            recorded = sorted(self._recorded)[:FORGET_MAX]
            poll = {"ack": self._ack, "answer": self._answer, "wait_s": times.poll_s, "forget": recorded}
            try:
                answer, batches = await self.calls.poll(poll, min(times.poll_s + times.patience_s, left_s))
            except TimeoutError:
                self._suspect("it does not answer")
                continue
            except CarrierError as error:
                self._suspect(str(error))
                is_gone = isinstance(error, HostGone)
            else:
                if "refused" not in answer:
                    self._recorded.difference_update(recorded)
                    self._on_answer(answer["answer"], batches)
                    continue
                self._suspect(f"it refuses: {answer['refused']}")
                if answer["refused"] == messages.STALE_EPOCH:
                    self._owner.on_deposed()
                is_gone = answer["refused"] == messages.UNKNOWN_EPOCH  # the next incarnation is there already
            if is_gone and not self.is_given_back and (hello := await self._succeed()) is not None:
                return hello
            await event_loops.wait_within(self._closing, min(ASK_AGAIN_S, left_s))
        return None

    async def _succeed(self) -> Header | None:
        """Begin the next incarnation, unless that of this one may still run something."""
        try:
            async with asyncio.timeout(max(0.0, self._left_s())):
                return await self._hello(self._process)
        except TimeoutError:
            return None

    def _left_s(self) -> float:
        """Return how long something may run on the node if it hears nothing more."""
        assert self._heard is not None
        left_s = end_of_node(self._heard, self._times.lease_s) - self._clock.now()
        return max(left_s, SHORTEST_S) if left_s > 0 else 0.0

    def _suspect(self, why: str) -> None:
        if self.state != "suspect" and not self.is_given_back:
            self._note("suspect", why)
            self._owner.on_pools(self, [])

    def _on_answer(self, number: int, batches: Batches) -> None:
        if number > self._answer:
            self._answer, self._heard = number, self._clock.now()
        if self.state == "suspect":
            self._note("live", "")
            self._owner.on_pools(self, [])
        for header, blobs in batches:
            if header["seq"] != self._ack + 1:
                continue  # it was received before
            self._ack += 1
            self._owner.on_pools(self, header["pools"])
            for item, blob in zip(header["items"], blobs, strict=True):
                self._on_item(item, blob)

    def _on_item(self, item: Header, blob: bytes) -> None:
        if item["kind"] == "slot":
            ended = self._ended.pop(item["n"], None)
            if ended is not None:
                ended.on_slot_ready(item["after_ms"])
            return
        attempt = self.attempts.get(item["n"])
        if attempt is None:
            return
        try:
            attempt.on_item(item, blob)
        except Exception as error:  # whatever it has sent: its job ends, and the others go on
            logger.error("node_broken", extra={"node": self.name, "job_id": attempt.job.id, "detail": repr(error)})
            attempt.on_broken(repr(error))
        if attempt.is_over:
            self.attempts.pop(attempt.n, None)
            if attempt.waits_for_slot:
                self._ended[attempt.n] = attempt

    @property
    def _lease_over(self) -> tuple[str, str]:
        return "lease", f"its lease of {self._times.lease_s:g} s is over, so it has ended everything"

    def _lose(self, fenced: str, how: str) -> None:
        """Tell that everything on it has ended, and by what that is known: nobody has heard how."""
        self._note("lost", how)
        attempts, self.attempts = self.attempts, {}
        self._orders.forget()
        self._ended.clear()
        self.held.clear()
        self.ended[self.incarnation] = fenced, how
        self._owner.on_lost(self)
        facts = {"incarnation": self.incarnation, "fenced": fenced}
        for attempt in attempts.values():
            attempt.on_node_lost(facts, how)

    # ── attempts of an earlier head ──

    def settle(self) -> None:
        """Tell the node which attempts the head goes on with: those that are here. It ends the others that it holds."""
        if self.held:
            claimed = [each["n"] for each in self.held.values() if each["n"] in self.attempts]
            self.held.clear()
            self._run(self._claim(claimed))
        self.dropped.clear()
        if self.drain.left_s == 0:  # it was over before they were here
            self.end_drained()

    async def _claim(self, claimed: list[int]) -> None:
        incarnation = self.incarnation
        while self.incarnation == incarnation and not self._closing.is_set():
            try:
                answer, _ = await self.calls.call("adopt", {"ns": claimed}, self._times.patience_s)
                if answer.get("refused") != messages.NOT_UNDERSTOOD:
                    return  # another refusal, too: then the node has ended, or belongs to another head
            except (TimeoutError, CarrierError):
                pass
            await event_loops.wait_within(self._closing, ASK_AGAIN_S)

    def note_recorded(self, attempt: RemoteAttempt) -> None:
        """Take note that the node need not tell of this attempt again."""
        if attempt.incarnation == self.incarnation:
            self._recorded.add(attempt.n)

    # ── orders ──

    def next_number(self) -> int:
        """Return the number of the next attempt on this node. None is given twice, not even to another incarnation."""
        self._given += 1
        return self._given

    def add(self, attempt: RemoteAttempt) -> None:
        attempt.incarnation = self.incarnation
        self.attempts[attempt.n] = attempt

    def order(self, header: Header, blobs: list[bytes]) -> None:
        """Implement `Orders`."""
        self._orders.send(header, blobs)
