"""Carries the plan that ends an attempt out: the order, the signals, what was heard of them, each with its time.

Runs in: supervisor. What is to be done is decided in `escalation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from killable.supervisor.attempts import escalation
from killable.supervisor.attempts.escalation import Action, Escalation, Phase, Rules
from killable.supervisor.attempts.phase_times import PhaseTimes
from killable.supervisor.clock import Clock
from killable.supervisor.models import Verdict
from killable.supervisor.pools.worker import Worker
from killable.supervisor.ports import ProcessorUse
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_REPLACED,
    NOTIFY_RESTORED,
    NOTIFY_SWALLOWED,
    Kind,
    Stop,
)

SIGTERM = 15
"""signal(7); only the seam deals with `signal` itself."""


class Termination:
    """Of one attempt: nothing until `begin`."""

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
        """`on_kill` is called when SIGKILL is out, `on_unkillable` when it is still there `unkillable_s` later."""
        self.last_signal: str | None = None
        """The last one that we sent."""
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
        """The grace in force, in seconds; None while nothing ends the attempt."""
        return None if self._plan is None else self._plan.rules.grace_s

    @property
    def early_kill(self) -> str | None:
        """Why SIGKILL came before the grace was over. It may have left during the dump: then none came."""
        return self._plan.early_kill if self._plan is not None and "kill_sent" in self._phase_times else None

    @property
    def wake_at(self) -> float:
        """When `tick` is to be called next; infinity: never."""
        return float("inf") if self._plan is None else self._plan.wake_at

    def begin(self, verdict: Verdict, grace_s: float) -> None:
        """Ask it to end, or, without a grace, kill it."""
        self._verdict = verdict
        self.rules = replace(self.rules, grace_s=grace_s)
        self._do(escalation.begin(self.rules, self._clock.now()))

    def shorten(self, grace_s: float) -> None:
        """Leave less grace than was planned; more is ignored."""
        assert self._plan is not None
        self._do(escalation.shorten(self._plan, self._clock.now(), grace_s))

    def processor_use(self) -> ProcessorUse | None:
        """Return what `tick` may want to know of the process now."""
        return self._worker.process.processor_use() if self._plan is not None and self._plan.wants_use else None

    def tick(self, now: float, use: ProcessorUse | None) -> None:
        """`wake_at` has come, or is near: do what is due at `now`, by what the process had used then."""
        if self._plan is None:
            return
        dumped = self._plan.phase is not Phase.DUMPING or self._worker.process.has_whole_stack()
        self._do(escalation.tick(self._plan, now, use, dumped=dumped))

    def on_notifications(self, notifications: bytes) -> None:
        """Take what the worker says of the signals that it got."""
        for notification in notifications:
            if notification in (NOTIFY_REPLACED, NOTIFY_RESTORED):
                self.rules = replace(self.rules, has_own_handler=notification == NOTIFY_REPLACED)
            if self._plan is None or "kill_sent" in self._phase_times:
                continue  # nobody asked, or too late to have mattered
            now = self._clock.now()
            if notification == NOTIFY_REPLACED:
                self._do(escalation.answered_by_job(self._plan))
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
        """The process is gone: nothing is due any more."""
        if self._plan is not None:
            self._plan = escalation.exited(self._plan)

    def end_lingering(self) -> None:
        """The job is over and its process stays: SIGKILL, unless that has been sent."""
        self.lingered = "kill_sent" not in self._phase_times
        if self._plan is None:
            self.kill()
        else:
            self._do(escalation.lingers(self._plan, self._clock.now()))

    def kill(self) -> None:
        """SIGKILL the whole tree, whatever the plan says."""
        self._signal("SIGKILL", "kill_sent")
        self._worker.process.kill()
        self._on_kill()

    def give_up(self) -> None:
        """Take what the process has said until now, and repeat a SIGKILL that had no effect: what refused the first
        one, or kept it from the tree, may have passed.
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
