"""The plan that ends an attempt: SIGTERM → acknowledged grace → SIGKILL, as states with deadlines.

Runs in: supervisor. Pure: every function takes `now` and returns the next state and the actions to take.

    ASKED ──delivered──► DELIVERED ──acknowledged──► ACKNOWLEDGED
      │  grace over          │ stuck, or grace over      │ grace over
      └──────────────► KILLED ◄──────────────────────────┘ ──unkillable_s──► UNKILLABLE

The stack is asked for before it is time to kill: `DUMP_LEAD_S` before the grace is over, or before `ack_s` is over if
it computes until then. SIGKILL does not wait for it. Only where there was no such time, as without a grace, DUMPING
comes before KILLED, for 5 to 100 ms.

A worker is stuck if it has not acknowledged the signal although both `ack_s` of time and `ack_cpu_s` of processor time
of the whole process have passed since the delivery. Until it acknowledges, the signal is resent
(RESEND_UNACKNOWLEDGED_S). A worker that used no processor time is starved, throttled or waiting, and keeps its grace. A
worker whose main thread only waits for the interpreter lock, held by its other threads, gets `LOCK_PATIENCE` times as
long: after that, native code in another thread must hold the lock.
"""

from __future__ import annotations

from enum import Enum

from killable.supervisor.ports import ProcessorUse
from killable.workers.named_tuples import NamedTuple

DUMP_LEAD_S = 0.1
"""How long before SIGKILL the stacks are asked for; half of a shorter wait. faulthandler needs less than 1 ms, but a
worker at nice 5 beside busy ones may not have the processor for a while."""
DUMP_LATE_S_MAX = 0.0
"""How much later SIGKILL is for stacks that were asked for in time, and are not there: a process can block the signal.
"""
DUMP_S = 0.005
"""Time for the stacks of a process that is about to be killed, and was not asked for them before."""
DUMP_S_MAX = 0.1
"""The same if it is not finished by then."""
LOOK_AGAIN_S = 0.010
"""Minimum time between two looks at the processor time."""
STALL_S = 0.1
"""If the end of a grace is handled this late, the machine or this process stood still, and perhaps the job too."""
LOCK_RUNS = 4
"""A thread that waits for the interpreter lock wakes every 5 ms (sys.getswitchinterval) to ask for it: more than 10
runs in `ack_s` were seen on an overloaded machine. A thread that waits for native threads sleeps: 2 runs at most.
"""
LOCK_PATIENCE = 4
"""The lock is granted in no order: three computing threads kept the main thread waiting for over half a second."""
RESEND_UNACKNOWLEDGED_S = 0.05
"""Time from an unacknowledged delivery to the first resend; the next comes after twice as long, and so on. Python runs
its handlers between two instructions: a signal that arrives right before a call that waits, pause(2) or sem_wait(3),
does not interrupt that call.
"""
RESEND_S = 0.005
"""Delay after a swallowed `Stopping`: an earlier one would land inside the hook that reported it, and be lost again."""


_NOTHING_USED = ProcessorUse(0.0)


class Phase(Enum):
    ASKED = "asked"
    DELIVERED = "delivered"
    ACKNOWLEDGED = "acknowledged"
    DUMPING = "dumping"
    KILLED = "killed"
    UNKILLABLE = "unkillable"
    EXITED = "exited"
    """Only the proof that the tree is gone is missing; later events change nothing."""


class Action(Enum):
    TERMINATE = "order, SIGCONT if stopped, SIGTERM"
    RESEND = "SIGTERM again"
    DUMP = "the dump signal"
    KILL = "SIGKILL to the whole tree"
    QUARANTINE = "give up on the slot"


class Rules(NamedTuple):
    """The limits and options in force for one attempt; times in seconds."""

    grace_s: float
    ack_s: float | None
    ack_cpu_s: float
    unkillable_s: float
    cores: int = 1
    stack: bool = False
    """Whether a stack is dumped even without a grace."""
    has_own_handler: bool = False
    """The job handles SIGTERM itself: no one acknowledges it, and a second SIGTERM may have a meaning of its own."""

    shows_delivery: bool = True
    """Whether the worker shows when a signal is delivered; else that is taken to be when it is sent."""

    @property
    def is_repeated(self) -> bool:
        """Whether SIGTERM is sent again until it is acknowledged. What may wait for it by sigwait(3) gets it once."""
        return self.shows_delivery and not self.has_own_handler

    @property
    def adaptive(self) -> bool:
        """Whether a worker that does not acknowledge may be killed before its grace is over."""
        return self.ack_s is not None and self.ack_s < self.grace_s and not self.has_own_handler


class Escalation(NamedTuple):
    phase: Phase
    rules: Rules
    grace_ends: float
    wake_at: float
    """When to call `tick` next."""
    delivered_at: float = 0.0
    use_at_delivery: ProcessorUse = _NOTHING_USED
    early_kill: str | None = None
    resend_at: float | None = None
    look_at: float = float("inf")
    """When to check whether it is stuck."""
    dump_at: float = float("inf")
    """When to ask for the stacks; infinity: that was done, or is not needed."""
    dump_ends: float = 0.0
    was_extended: bool = False
    """Whether the grace was extended because the machine had stood still. That happens once."""

    @property
    def wants_use(self) -> bool:
        """Whether `delivered`, or the next `tick`, needs the worker's processor use."""
        return self.phase in (Phase.ASKED, Phase.DELIVERED) and self.rules.adaptive

    @property
    def awaits_stack(self) -> bool:
        """Whether the stacks were asked for, and the worker has not acknowledged since."""
        is_asked = self.phase in (Phase.ASKED, Phase.DELIVERED) and self.dump_at == float("inf")
        return is_asked or self.phase is Phase.DUMPING


Move = tuple[Escalation, tuple[Action, ...]]


def begin(rules: Rules, now: float) -> Move:
    """Ask the worker to end, or kill it at once if there is no grace."""
    ends = now + max(0.0, rules.grace_s)
    asked = _plan_dump(Escalation(Phase.ASKED, rules, grace_ends=ends, wake_at=ends, dump_at=ends))
    return _end_now(asked, now) if rules.grace_s <= 0 else (_wait(asked), (Action.TERMINATE,))


def delivered(state: Escalation, now: float, use: ProcessorUse | None) -> Move:
    """Note that the signal reached the process. C code may still delay Python's handler. Later calls change nothing."""
    if state.phase is not Phase.ASKED:
        return state, ()
    ack_s = state.rules.ack_s
    use = use or _NOTHING_USED  # gone, or acknowledged in the same read: it is not used then
    waiting = state._replace(
        phase=Phase.DELIVERED,
        delivered_at=now,
        use_at_delivery=use,
        look_at=now + ack_s if ack_s is not None and state.rules.adaptive else float("inf"),
        resend_at=now + RESEND_UNACKNOWLEDGED_S if state.rules.is_repeated else None,
    )
    return _wait(_plan_dump(waiting)), ()


def _wait(state: Escalation) -> Escalation:
    """Set `wake_at` to the first moment at which something is due before an acknowledgement."""
    resend_at = state.grace_ends if state.resend_at is None else state.resend_at
    return state._replace(wake_at=min(state.grace_ends, state.look_at, state.dump_at, resend_at))


def _plan_dump(state: Escalation) -> Escalation:
    """Set `dump_at`, unless it is past: shortly before the grace is over, or before the look if that is sooner."""
    if state.dump_at == float("inf"):
        return state
    rules = state.rules
    before_look = state.look_at - min(DUMP_LEAD_S, (rules.ack_s or 0.0) / 2)
    return state._replace(dump_at=min(before_look, _before_end(state)))


def _before_end(state: Escalation) -> float:
    return state.grace_ends - min(DUMP_LEAD_S, state.rules.grace_s / 2)


def acknowledged(state: Escalation, now: float) -> Move:
    """Note that Python's handler ran: the job has its whole grace to clean up."""
    if state.phase not in (Phase.ASKED, Phase.DELIVERED):
        return state, ()
    heard = state._replace(phase=Phase.ACKNOWLEDGED, wake_at=state.grace_ends, resend_at=None)
    return heard._replace(look_at=float("inf"), dump_at=float("inf")), ()


def handled_by_job(state: Escalation) -> Move:
    """Note that the job has set a SIGTERM handler of its own: it has its whole grace."""
    alone = _plan_dump(state._replace(rules=state.rules._replace(has_own_handler=True), look_at=float("inf")))
    waits = state.phase in (Phase.DELIVERED, Phase.ACKNOWLEDGED)
    return (_wait(alone._replace(resend_at=None)) if waits else alone), ()


def swallowed(state: Escalation, now: float) -> Move:
    """Plan a resend, not at once: the raised `Stopping` was lost in a callback."""
    if state.phase is not Phase.ACKNOWLEDGED or state.rules.has_own_handler:
        return state, ()
    resend_at = now + RESEND_S
    return state._replace(resend_at=resend_at, wake_at=min(resend_at, state.grace_ends)), ()


def shorten(state: Escalation, now: float, grace_s: float) -> Move:
    """Shorten the rest of the grace to `grace_s`; more than is left is ignored. 0 kills at once."""
    if _was_missed(state, now):
        state = _extend_grace(state, now)  # as the next `tick` would
    ends = now + grace_s
    if ends >= state.grace_ends or state.phase in (Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED):
        return state, ()
    rules = state.rules._replace(grace_s=grace_s)
    dump_ends = min(state.dump_ends, ends + DUMP_LATE_S_MAX)
    shorter = _plan_dump(state._replace(rules=rules, grace_ends=ends, dump_ends=dump_ends))
    shorter = shorter._replace(wake_at=min(state.wake_at, ends, shorter.dump_at))
    return _end_now(shorter, now) if grace_s <= 0 else (shorter, ())


def lingers(state: Escalation, now: float) -> Move:
    """Kill a process that stays although its job is over, whatever is left of the grace."""
    if state.phase in (Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED):
        return state, ()
    return _kill(state, now)


def exited(state: Escalation) -> Escalation:
    """Note that the process is gone: only the proof that its tree is gone is missing."""
    return state._replace(phase=Phase.EXITED, wake_at=float("inf"))


def tick(state: Escalation, now: float, use: ProcessorUse | None = None, *, dumped: bool = True) -> Move:
    """Decide what is due at `wake_at`; nothing is before it. `dumped`: the stack has been written."""
    if now < state.wake_at:
        return state, ()
    if _was_missed(state, now):
        return _extend_grace(state, now), ()
    match state.phase:
        case Phase.ACKNOWLEDGED if state.resend_at is not None and now < state.grace_ends:
            return state._replace(resend_at=None, wake_at=state.grace_ends), (Action.RESEND,)
        case Phase.ACKNOWLEDGED:
            return _kill(state, now)
        case Phase.ASKED | Phase.DELIVERED if now >= state.grace_ends:
            return _kill_or_dump(state, now, dumped)
        case Phase.ASKED:
            return _ask_for_stack(state)
        case Phase.DELIVERED:
            looked, actions = (state, ()) if now < state.look_at else _look_at_use(state, now, use, dumped)
            if not actions and now >= looked.dump_at:
                looked, actions = _ask_if_deaf(looked, now, use)
            return (looked, actions) if actions else _resend_unacknowledged(looked, now)
        case Phase.DUMPING if not dumped and now < state.dump_ends:
            return state._replace(wake_at=min(now + DUMP_S, state.dump_ends)), ()
        case Phase.DUMPING:
            return _kill(state, now)
        case Phase.KILLED:
            return state._replace(phase=Phase.UNKILLABLE, wake_at=float("inf")), (Action.QUARANTINE,)
        case Phase.UNKILLABLE | Phase.EXITED:
            return state, ()


def _was_missed(state: Escalation, now: float) -> bool:
    """Return whether the end of the grace was handled far too late and the grace may still be extended."""
    in_grace = state.phase in (Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED)
    return in_grace and now - state.grace_ends >= STALL_S and not state.was_extended


def _extend_grace(state: Escalation, now: float) -> Escalation:
    """Extend the grace by the time by which its end was missed: for at least that long the machine stood still.

    A resend or look that was due meanwhile happens now; a later one keeps its time.
    """
    is_looked_at = state.phase is Phase.DELIVERED and state.rules.adaptive
    longer = state._replace(
        grace_ends=now + min(now - state.grace_ends, state.rules.grace_s),
        look_at=max(state.look_at, now + LOOK_AGAIN_S) if is_looked_at else float("inf"),
        resend_at=None if state.resend_at is None else max(state.resend_at, now),
        was_extended=True,
        dump_at=float("inf") if state.phase is Phase.ACKNOWLEDGED else state.grace_ends,
    )
    return _wait(_plan_dump(longer))


def _resend_unacknowledged(state: Escalation, now: float) -> Move:
    """Resend the signal if that is due."""
    if state.resend_at is None or now < state.resend_at:
        return state, ()
    return _wait(state._replace(resend_at=resend_next(state.delivered_at, now))), (Action.RESEND,)


def resend_next(delivered_at: float, now: float) -> float:
    """Return when to resend after a resend at `now`: after twice the time that has passed since the delivery."""
    return delivered_at + 2 * (now - delivered_at)


def _ask_for_stack(state: Escalation) -> Move:
    return _wait(state._replace(dump_at=float("inf"))), (Action.DUMP,)


def _ask_if_deaf(state: Escalation, now: float, use: ProcessorUse | None) -> Move:
    """Ask for the stacks if the grace is about to end, or if the worker computes as fast as one that is stuck."""
    if now >= _before_end(state):
        return _ask_for_stack(state)
    if use is not None and not _waits_for_interpreter(state, now, use):
        waited, used = now - state.delivered_at, use.cpu_s - state.use_at_delivery.cpu_s
        if used * (state.rules.ack_s or 0.0) >= state.rules.ack_cpu_s * waited:
            return _ask_for_stack(state)
    return _wait(state._replace(dump_at=_before_end(state))), ()


def _look_again(state: Escalation, now: float, in_s: float) -> Move:
    """Plan another look: it is not stuck. Stacks that were asked for are asked for again before the grace is over."""
    ends = _before_end(state)
    return _wait(state._replace(look_at=now + in_s, dump_at=ends if now < ends else state.dump_at)), ()


def _look_at_use(state: Escalation, now: float, use: ProcessorUse | None, dumped: bool) -> Move:
    # None: gone or unreadable. Its exit will be seen, or the grace ends.
    if use is None or _waits_for_interpreter(state, now, use):
        return _look_again(state, now, LOOK_AGAIN_S)
    used = use.cpu_s - state.use_at_delivery.cpu_s
    missing = state.rules.ack_cpu_s - used
    if missing > 0:
        return _look_again(state, now, max(LOOK_AGAIN_S, missing / max(1, state.rules.cores)))
    waited, since = now - state.delivered_at, "delivered" if state.rules.shows_delivery else "sent"
    why = (
        f"not acknowledged for {waited:.3f} s and {used:.3f} s of processor time since the signal was {since} "
        f"(ack_s {state.rules.ack_s:g}): native code did not react; raise ack_s to wait longer"
    )
    return _kill_or_dump(state._replace(early_kill=why), now, dumped)


def _waits_for_interpreter(state: Escalation, now: float, use: ProcessorUse) -> bool:
    """Return whether the main thread wakes repeatedly without computing: it will react when it gets the lock."""
    before = state.use_at_delivery
    if state.rules.ack_s is None or now - state.delivered_at >= LOCK_PATIENCE * state.rules.ack_s:
        return False
    if use.main_cpu_s is None or use.main_runs is None or before.main_cpu_s is None or before.main_runs is None:
        return False
    computed = use.main_cpu_s - before.main_cpu_s
    return computed < state.rules.ack_cpu_s and use.main_runs - before.main_runs >= LOCK_RUNS


def _end_now(state: Escalation, now: float) -> Move:
    """Kill, after a dump if one is wanted: there is no grace, or none is left."""
    wants_stack = state.rules.stack and state.phase in (Phase.ASKED, Phase.DELIVERED)
    return _kill_or_dump(state, now, dumped=False) if wants_stack else _kill(state, now)


def _kill_or_dump(state: Escalation, now: float, dumped: bool) -> Move:
    """Kill one that was asked for its stacks in time; ask another one first."""
    if state.awaits_stack:
        late = state._replace(phase=Phase.DUMPING, wake_at=now, dump_ends=now + DUMP_LATE_S_MAX)
        return tick(late, now, dumped=dumped)
    ends = now + DUMP_S_MAX
    if state.early_kill is not None:
        ends = max(now, min(ends, state.grace_ends + DUMP_LATE_S_MAX))
    dumping = state._replace(phase=Phase.DUMPING, wake_at=min(now + DUMP_S, ends), dump_ends=ends)
    return dumping._replace(dump_at=float("inf")), (Action.DUMP,)


def _kill(state: Escalation, now: float) -> Move:
    return state._replace(phase=Phase.KILLED, wake_at=now + state.rules.unkillable_s), (Action.KILL,)
