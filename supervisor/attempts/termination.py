"""Carry out the plan that ends an attempt: send the order and the signals, and note the time of each phase.

Runs in: supervisor. `escalation` decides what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.attempts import escalation
from killable.supervisor.attempts.certificate import PhaseTimes
from killable.supervisor.attempts.escalation import Action, Escalation, Rules
from killable.supervisor.clock import Clock
from killable.supervisor.models import Verdict
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import ProcessorUse
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_REPLACED,
    NOTIFY_RESTORED,
    NOTIFY_SEEN,
    NOTIFY_SWALLOWED,
    NOTIFY_UNSEEN,
    Kind,
    Stop,
)

SIGTERM = 15
"""signal(7); within the supervisor only `linux` imports `signal`."""
LEAVE_S = 1.0
"""Time to exit after the closing frame for a worker that takes no other job; it needs 1 ms. Then it is killed."""


class Termination:
    """The end of one attempt; inactive until `begin`."""

    def __init__(
        self,
        worker: Worker,
        fence: int,
        rules: Rules,
        phase_times: PhaseTimes,
        clock: Clock,
        *,
        on_kill: Callable[[], None],
        on_unkillable: Callable[[], None],
    ) -> None:
        """`on_kill` is called when SIGKILL was sent, `on_unkillable` if the process lives `unkillable_s` later."""
        self.last_signal: str | None = None
        """The last signal that the supervisor sent."""
        self.lingered = False
        """SIGKILL was sent because the job was over and its process stayed."""
        self.rules = rules
        self._worker = worker
        self._fence = fence
        self._phase_times = phase_times
        self._clock = clock
        self._on_kill = on_kill
        self._on_unkillable = on_unkillable
        self._plan: Escalation | None = None
        self._verdict: Verdict | None = None

    @property
    def has_begun(self) -> bool:
        return self._plan is not None

    @property
    def grace_s(self) -> float | None:
        """The grace period in force, in seconds; None before `begin`."""
        return None if self._plan is None else self._plan.rules.grace_s

    @property
    def early_kill(self) -> str | None:
        """Why SIGKILL was sent before the grace was over; None if the process exited before it, during the dump."""
        return self._plan.early_kill if self._plan is not None and "kill_sent" in self._phase_times else None

    @property
    def wake_at(self) -> float:
        """When to call `tick` next; infinity: never."""
        return float("inf") if self._plan is None else self._plan.wake_at

    def begin(self, verdict: Verdict, grace_s: float) -> None:
        """Ask the process to end, or kill it if there is no grace."""
        self._verdict = verdict
        self.rules = self.rules._replace(grace_s=grace_s)
        self._do(escalation.begin(self.rules, self._clock.now()))
        if not self.rules.shows_delivery and self._plan is not None:
            self._do(escalation.delivered(self._plan, self._clock.now(), self.processor_use()))

    def shorten(self, grace_s: float) -> None:
        """Shorten the rest of the grace; more than is left is ignored."""
        assert self._plan is not None
        self._do(escalation.shorten(self._plan, self._clock.now(), grace_s))

    def processor_use(self) -> ProcessorUse | None:
        """Return the process's processor use if `tick` needs it, else None."""
        return self._worker.process.processor_use() if self._plan is not None and self._plan.wants_use else None

    def tick(self, now: float, use: ProcessorUse | None) -> None:
        """Do what is due at `now`; `use` is the processor use measured then. Call it at `wake_at`, or near it."""
        if self._plan is None:
            return
        dumped = not self._plan.awaits_stack or self._worker.process.has_whole_stack()
        self._do(escalation.tick(self._plan, now, use, dumped=dumped))

    def on_notifications(self, notifications: bytes) -> None:
        """Process the worker's notifications about signals that it received."""
        for notification in notifications:
            if notification in (NOTIFY_REPLACED, NOTIFY_RESTORED):
                self.rules = self.rules._replace(has_own_handler=notification == NOTIFY_REPLACED)
            elif notification in (NOTIFY_UNSEEN, NOTIFY_SEEN):
                self.rules = self.rules._replace(shows_delivery=notification == NOTIFY_SEEN)
            if self._plan is None or "kill_sent" in self._phase_times:
                continue  # no stop was requested, or SIGKILL was sent before
            now = self._clock.now()
            if notification == NOTIFY_REPLACED:
                self._do(escalation.handled_by_job(self._plan))
            elif notification == SIGTERM:
                self._phase_times.note("delivered", now)
                wanted = self._plan.wants_use and NOTIFY_ACKNOWLEDGED not in notifications
                use = self._worker.process.processor_use() if wanted else None
                self._do(escalation.delivered(self._plan, now, use))
            elif notification == NOTIFY_ACKNOWLEDGED:
                self._phase_times.note("delivered", now)
                self._phase_times.note("acknowledged", now)
                self._do(escalation.acknowledged(self._plan, now))
            elif notification == NOTIFY_SWALLOWED:
                self._do(escalation.swallowed(self._plan, now))

    def on_exited(self) -> None:
        """Note that the process is gone: nothing is due any more."""
        if self._plan is not None:
            self._plan = escalation.exited(self._plan)

    def end_lingering(self) -> None:
        """Send SIGKILL, unless it was sent before, to a process that stays although its job is over."""
        self.lingered = "kill_sent" not in self._phase_times
        if self._plan is None:
            self.kill()
        else:
            self._do(escalation.lingers(self._plan, self._clock.now()))

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, whatever the plan is."""
        self._signal("SIGKILL", "kill_sent")
        self._worker.process.kill()
        self._worker.on_killed()
        self._on_kill()

    def close(self) -> None:
        """Note that the attempt is over: it is told nothing more, and is not kept alive by this."""
        self._on_kill = self._on_unkillable = _not_any_more

    def give_up(self) -> None:
        """Read the process's messages so far, and repeat a SIGKILL that had no effect: the reason why the first one was
        refused, or did not reach the whole tree, may be gone.
        """
        self._worker.process.read_ready()
        if "kill_sent" in self._phase_times:
            self._worker.process.kill()

    def _do(self, move: escalation.Move) -> None:
        self._plan, actions = move
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        process = self._worker.process
        match action:
            case Action.TERMINATE:
                self._order_stop()
                self._signal("SIGTERM", "term_sent")
                process.terminate(self._fence)
            case Action.RESEND:
                process.terminate(self._fence)
            case Action.DUMP:
                process.dump(self._fence)
            case Action.KILL:
                self.kill()
            case Action.QUARANTINE:
                self._on_unkillable()

    def _order_stop(self) -> None:
        verdict = self._verdict
        assert verdict is not None
        stop = Stop(cause=verdict.code, by=verdict.by, grace_s=self.rules.grace_s, reason=verdict.reason)
        self._worker.process.send(encode(Kind.STOP, self._fence, 0, stop.encode()))

    def _signal(self, name: str, phase: str) -> None:
        self._phase_times.note(phase, self._clock.now())
        self.last_signal = name
        self._worker.signalled = True


def _not_any_more() -> None: ...
