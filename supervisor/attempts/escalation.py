"""The plan that ends an attempt: SIGTERM → acknowledged grace → SIGKILL, as states with deadlines.

Runs in: supervisor. Pure: every function takes `now` and returns the next state and what is to be done.

    ASKED ──delivered──► DELIVERED ──acknowledged──► ACKNOWLEDGED
      │  grace over          │ stuck, or grace over      │ grace over
      ▼                      ▼                           ▼
    DUMPING ──5 ms…1 s──► KILLED ◄───────────────────────┘ ──unkillable_s──► UNKILLABLE

Stuck: delivered but not acknowledged while both `ack_s` of time and `ack_cpu_s` of the whole process's processor
time have passed since the delivery. Until it acknowledges, the signal is repeated now and then (RING_UNHEARD_S). A
worker that used no processor time is starved, throttled or waiting, and keeps its grace. One whose main thread only
waits for the interpreter lock, which other threads of its own use, is waited for `LOCK_PATIENCE` times as long: then it
is native code in another thread that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from killable.supervisor.ports import ProcessorUse

DUMP_S = 0.005
"""For faulthandler to write the stacks of a process that is about to be killed."""
DUMP_S_MAX = 0.1
"""When it has written nothing by then: a worker at nice 5 beside busy ones may not have had the processor yet."""
DUMP_IN_GRACE_S_MAX = 1.0
"""The same while its grace would last: to wait keeps nobody from anything, and the stack is what its author needs."""
LOOK_AGAIN_S = 0.010
"""The shortest time between two looks at the processor time."""
STOOD_STILL_S = 0.1
"""When the end of a grace is looked at so late, this machine or this process stood still, and so may have the job."""
LOCK_RUNS = 4
"""A thread that waits for the interpreter lock wakes every 5 ms (sys.getswitchinterval) to ask for it: more than 10
runs in `ack_s` were seen on an overloaded machine. One that waits for native threads of its own sleeps: 2 at most.
"""
LOCK_PATIENCE = 4
"""Turns are given without order: three computing threads kept the main thread waiting for over half a second."""
RESEND_UNHEARD_S = 0.05
"""After a delivery that was not acknowledged, then after twice as long, and so on. Python runs its handlers between two
instructions: a signal that comes right before a call that waits, pause(2) or sem_wait(3), is noted and wakes no one.
"""
RESEND_S = 0.005
"""After a swallowed `Stopping`: sooner, the next one would land inside the hook that reported it, and be lost again."""


_NOTHING_USED = ProcessorUse(0.0)


class Phase(Enum):
    ASKED = "asked"
    DELIVERED = "delivered"
    ACKNOWLEDGED = "acknowledged"
    DUMPING = "dumping"
    KILLED = "killed"
    UNKILLABLE = "unkillable"
    EXITED = "exited"
    """Nothing is due any more but the proof that its tree is gone; what comes now comes too late."""


class Action(Enum):
    TERMINATE = "order, SIGCONT if stopped, SIGTERM"
    RESEND = "SIGTERM again"
    DUMP = "the dump signal"
    KILL = "SIGKILL to the whole tree"
    QUARANTINE = "give up on the slot"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force for one attempt, in seconds."""

    grace_s: float
    ack_s: float | None
    ack_cpu_s: float
    unkillable_s: float
    cores: int = 1
    stack: bool = False
    """Whether a stack is dumped also without a grace."""
    has_own_handler: bool = False
    """The job handles SIGTERM itself: nobody of ours can acknowledge it, and to hear it twice may mean something."""

    @property
    def adaptive(self) -> bool:
        """Whether a worker that cannot hear is killed before its grace is over."""
        return self.ack_s is not None and self.ack_s < self.grace_s and not self.has_own_handler


@dataclass(frozen=True, slots=True)
class Escalation:
    phase: Phase
    rules: Rules
    grace_ends: float
    wake_at: float
    """When `tick` is to be called next."""
    delivered_at: float = 0.0
    use_at_delivery: ProcessorUse = _NOTHING_USED
    early_kill: str | None = None
    resend_at: float | None = None
    look_at: float = float("inf")
    """When to look whether it is stuck."""
    dump_ends: float = 0.0
    was_lengthened: bool = False
    """For a time in which the machine stood still: once."""

    @property
    def wants_use(self) -> bool:
        """Whether `delivered`, or the next `tick`, needs what the worker has used of the processor."""
        return self.phase in (Phase.ASKED, Phase.DELIVERED) and self.rules.adaptive


Move = tuple[Escalation, tuple[Action, ...]]


def begin(rules: Rules, now: float) -> Move:
    """Start: with a grace the worker is asked, without it is killed at once."""
    ends = now + max(0.0, rules.grace_s)
    asked = Escalation(Phase.ASKED, rules, grace_ends=ends, wake_at=ends)
    return _end_now(asked, now) if rules.grace_s <= 0 else (asked, (Action.TERMINATE,))


def delivered(state: Escalation, now: float, use: ProcessorUse | None) -> Move:
    """The signal reached the process: C code may still keep Python from hearing it. Later bytes change nothing."""
    if state.phase is not Phase.ASKED:
        return state, ()
    ack_s = state.rules.ack_s
    use = use or _NOTHING_USED  # gone, or acknowledged in the same breath: nobody will look
    waiting = replace(
        state,
        phase=Phase.DELIVERED,
        delivered_at=now,
        use_at_delivery=use,
        look_at=now + ack_s if ack_s is not None and state.rules.adaptive else float("inf"),
        resend_at=None if state.rules.has_own_handler else now + RESEND_UNHEARD_S,
    )
    return _wait(waiting), ()


def _wait(state: Escalation) -> Escalation:
    """Wake for whatever comes first while it has not acknowledged."""
    moments = (state.grace_ends, state.look_at, state.grace_ends if state.resend_at is None else state.resend_at)
    return replace(state, wake_at=min(moments))


def acknowledged(state: Escalation, now: float) -> Move:
    """Python's handler ran: the job has its whole grace to clean up."""
    if state.phase not in (Phase.ASKED, Phase.DELIVERED):
        return state, ()
    return replace(state, phase=Phase.ACKNOWLEDGED, wake_at=state.grace_ends, resend_at=None), ()


def answered_by_job(state: Escalation) -> Move:
    """The job has set a SIGTERM handler of its own: it has its whole grace."""
    alone = replace(state, rules=replace(state.rules, has_own_handler=True), look_at=float("inf"))
    waits = state.phase in (Phase.DELIVERED, Phase.ACKNOWLEDGED)
    return (_wait(replace(alone, resend_at=None)) if waits else alone), ()


def swallowed(state: Escalation, now: float) -> Move:
    """The raised `Stopping` was lost in a callback: ring again, not at once."""
    if state.phase is not Phase.ACKNOWLEDGED or state.rules.has_own_handler:
        return state, ()
    resend_at = now + RESEND_S
    return replace(state, resend_at=resend_at, wake_at=min(resend_at, state.grace_ends)), ()


def shorten(state: Escalation, now: float, grace_s: float) -> Move:
    """A caller asks for less grace; more is ignored. 0 kills at once."""
    if _was_missed(state, now):
        state = _lengthen(state, now)  # as it would be in a moment
    ends = now + grace_s
    if ends >= state.grace_ends or state.phase in (Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED):
        return state, ()
    rules = replace(state.rules, grace_s=grace_s)
    dump_ends = min(state.dump_ends, ends + DUMP_S_MAX)
    shorter = replace(state, rules=rules, grace_ends=ends, wake_at=min(state.wake_at, ends), dump_ends=dump_ends)
    return _end_now(shorter, now) if grace_s <= 0 else (shorter, ())


def lingers(state: Escalation, now: float) -> Move:
    """The job is over and its process stays: kill it, whatever is left of the grace."""
    if state.phase in (Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED):
        return state, ()
    return _kill(state, now)


def exited(state: Escalation) -> Escalation:
    """The process is gone: nothing is due any more but the proof that its tree is."""
    return replace(state, phase=Phase.EXITED, wake_at=float("inf"))


def tick(state: Escalation, now: float, use: ProcessorUse | None = None, *, dumped: bool = True) -> Move:
    """The time `wake_at` has come (or is near): decide what is due. `dumped`: a stack has been written."""
    if now < state.wake_at:
        return state, ()
    if _was_missed(state, now):
        return _lengthen(state, now), ()
    match state.phase:
        case Phase.ACKNOWLEDGED if state.resend_at is not None and now < state.grace_ends:
            return replace(state, resend_at=None, wake_at=state.grace_ends), (Action.RESEND,)
        case Phase.ACKNOWLEDGED:
            return _kill(state, now)
        case Phase.ASKED:
            return _dump(state, now)
        case Phase.DELIVERED:
            if now >= state.grace_ends:
                return _dump(state, now)
            looked, actions = (state, ()) if now < state.look_at else _look_at_use(state, now, use)
            return (looked, actions) if actions else _resend_unheard(looked, now)
        case Phase.DUMPING if not dumped and now < state.dump_ends:
            return replace(state, wake_at=min(now + DUMP_S, state.dump_ends)), ()
        case Phase.DUMPING:
            return _kill(state, now)
        case Phase.KILLED:
            return replace(state, phase=Phase.UNKILLABLE, wake_at=float("inf")), (Action.QUARANTINE,)
        case Phase.UNKILLABLE | Phase.EXITED:
            return state, ()


def _was_missed(state: Escalation, now: float) -> bool:
    """Tell whether nobody looked when the grace was over, and nothing worse is on its way."""
    in_grace = state.phase in (Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED)
    return in_grace and now - state.grace_ends >= STOOD_STILL_S and not state.was_lengthened


def _lengthen(state: Escalation, now: float) -> Escalation:
    """Give back what the machine has taken of the grace, by what can be seen: the time by which its end was missed.

    What was to be done meanwhile, to ring or to look, is done now, and what is not yet due in its time.
    """
    is_looked_at = state.phase is Phase.DELIVERED and state.rules.adaptive
    longer = replace(
        state,
        grace_ends=now + min(now - state.grace_ends, state.rules.grace_s),
        look_at=max(state.look_at, now + LOOK_AGAIN_S) if is_looked_at else float("inf"),
        resend_at=None if state.resend_at is None else max(state.resend_at, now),
        was_lengthened=True,
    )
    return _wait(longer)


def _resend_unheard(state: Escalation, now: float) -> Move:
    """Send the signal again, if that is due."""
    if state.resend_at is None or now < state.resend_at:
        return state, ()
    return _wait(replace(state, resend_at=resend_next(state.delivered_at, now))), (Action.RESEND,)


def resend_next(delivered_at: float, now: float) -> float:
    """Return when a bell that rings now, unheard, rings again: twice as long after the first was delivered."""
    return delivered_at + 2 * (now - delivered_at)


def _look_at_use(state: Escalation, now: float, use: ProcessorUse | None) -> Move:
    # None: gone or unreadable. Its exit will be seen, or the grace ends.
    if use is None or _waits_for_interpreter(state, now, use):
        return _wait(replace(state, look_at=now + LOOK_AGAIN_S)), ()
    used = use.cpu_s - state.use_at_delivery.cpu_s
    missing = state.rules.ack_cpu_s - used
    if missing > 0:
        again = max(LOOK_AGAIN_S, missing / max(1, state.rules.cores))
        return _wait(replace(state, look_at=now + again)), ()
    waited = now - state.delivered_at
    why = (
        f"not acknowledged for {waited:.3f} s and {used:.3f} s of processor time since the signal was delivered "
        f"(ack_s {state.rules.ack_s:g}): native code that cannot hear; raise ack_s to wait longer"
    )
    return _dump(replace(state, early_kill=why), now)


def _waits_for_interpreter(state: Escalation, now: float, use: ProcessorUse) -> bool:
    """Tell whether the main thread is awake again and again without computing: it will hear when it is its turn."""
    before = state.use_at_delivery
    if state.rules.ack_s is None or now - state.delivered_at >= LOCK_PATIENCE * state.rules.ack_s:
        return False
    if use.main_cpu_s is None or use.main_runs is None or before.main_cpu_s is None or before.main_runs is None:
        return False
    computed = use.main_cpu_s - before.main_cpu_s
    return computed < state.rules.ack_cpu_s and use.main_runs - before.main_runs >= LOCK_RUNS


def _end_now(state: Escalation, now: float) -> Move:
    """There is no grace, or none is left."""
    wants_stack = state.rules.stack and state.phase in (Phase.ASKED, Phase.DELIVERED)
    return _dump(state, now) if wants_stack else _kill(state, now)


def _dump(state: Escalation, now: float) -> Move:
    ends = max(now + DUMP_S_MAX, min(state.grace_ends, now + DUMP_IN_GRACE_S_MAX))
    dumping = replace(state, phase=Phase.DUMPING, wake_at=now + DUMP_S, dump_ends=ends)
    return dumping, (Action.DUMP,)


def _kill(state: Escalation, now: float) -> Move:
    return replace(state, phase=Phase.KILLED, wake_at=now + state.rules.unkillable_s), (Action.KILL,)
