"""One run of a command: its limits, the signals for it, its end, and the certificate of that.

Runs in: supervisor (`killable run`). `attempts` decides when and how it is ended, as for a job. A command says nothing
of itself: it acknowledges no signal, and has its whole grace.
"""

from __future__ import annotations

from typing import Protocol

from killable.supervisor.attempts import escalation, exit_outcome
from killable.supervisor.attempts.certificate import PhaseTimes
from killable.supervisor.attempts.escalation import Action, Escalation, Rules
from killable.supervisor.attempts.exit_outcome import Evidence, signal_name
from killable.supervisor.attempts.resource_monitor import ResourceMonitor
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.models import Certificate, ExitStatus, Outcome, Verdict
from killable.supervisor.ports import Gone, MeasuredProcess
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.named_tuples import NamedTuple

ENDING_SIGNALS = frozenset({1, 2, 3, 15})
"""SIGHUP, SIGINT, SIGQUIT and SIGTERM ask `killable run` to end: the command gets them, and its grace begins."""
UNKILLABLE_S = 5.0
"""Time after SIGKILL until the command is given up."""
NO_KEEPER = "its keeper was killed, and the command with it"


class CommandControl(MeasuredProcess, Protocol):
    """What can be done with a command that runs."""

    def pass_on(self, number: int) -> None:
        """Send a signal to its process group, and let it run if it is stopped."""
        ...

    def kill(self) -> None:
        """Send SIGKILL to it and all below it."""
        ...


class CommandEnd(NamedTuple):
    """How a command ended."""

    outcome: Outcome
    status: ExitStatus
    certificate: Certificate
    run_s: float
    asked_by: str
    """The signal that asked it to end, such as `SIGTERM`; also if none was sent."""


class CommandRun:
    """Ends a command at its limits, or when this program is asked to end. `end` is set when all of it is gone."""

    def __init__(self, process: CommandControl, limits: Limits, clock: Clock, cores: int, signal: int) -> None:
        """`signal`: the number of the one that asks the command to end, at a limit."""
        self._process = process
        self._limits = limits
        self._clock = clock
        self._signal = signal
        self._phase_times = PhaseTimes()
        self._monitor = ResourceMonitor(process, limits, clock, cores, self.stop)
        self._verdict: Verdict | None = None
        self._plan: Escalation | None = None
        self._timers: list[Timer] = []
        self._plan_timer: Timer | None = None
        self._began = 0.0
        self._last_signal: str | None = None
        self._has_ended = False
        self.end: CommandEnd | None = None

    def begin(self, at: float) -> None:
        """Note that the command runs. Its time counts from then (CLOCK_MONOTONIC seconds)."""
        self._began = at
        run_s = self._limits["run_s"]
        if run_s is not None:
            self._timers.append(self._clock.call_at(self._began + run_s, self._on_run_over))
        self._monitor.prepare(has_order=True)
        self._monitor.begin(self._began)

    def on_signal(self, number: int) -> None:
        """Pass on a signal that this program was sent. One that asks it to end begins the grace of the command."""
        if number in ENDING_SIGNALS and self._verdict is None:
            name = signal_name(number)
            words = f"killable run was sent {name}"
            self._stop(Verdict("cancelled", by="user", reason=name, facts={"message": words}), None, number)
        else:
            self._process.pass_on(number)

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None:
        """End the command; if it is ending already, only shorten its grace. The first verdict stays."""
        self._stop(verdict, grace_s, self._signal)

    def _stop(self, verdict: Verdict, grace_s: float | None, number: int) -> None:
        now = self._clock.now()
        if self._plan is not None:
            if grace_s is not None:
                self._do(escalation.shorten(self._plan, now, grace_s))
            return
        if self._has_ended:
            return
        self._verdict = verdict
        self._phase_times.note("requested", now)
        self._signal = number
        grace = self._limits["grace_s"] if grace_s is None else min(grace_s, self._limits["grace_s"])
        rules = Rules(grace, ack_s=None, ack_cpu_s=0.0, unkillable_s=UNKILLABLE_S, has_own_handler=True)
        plan, actions = escalation.begin(rules, now)
        if grace > 0:
            plan, _ = escalation.acknowledged(plan, now)  # nobody will, and there is no stack to dump
        self._do((plan, actions))

    def _on_run_over(self) -> None:
        limit_s = self._limits["run_s"]
        words = f"run_s of {limit_s:g} s was reached"
        self.stop(
            Verdict("timeout.run", by="supervisor", facts={"limit": "run_s", "limit_s": limit_s, "message": words})
        )

    # ── the plan ──

    def _do(self, move: escalation.Move) -> None:
        self._plan, actions = move
        for action in actions:
            self._act(action)
        if self._plan_timer is not None:
            self._plan_timer.cancel()
        if self._plan.wake_at < float("inf") and self.end is None:
            self._plan_timer = self._clock.call_at(self._plan.wake_at, self._tick)

    def _tick(self) -> None:
        assert self._plan is not None
        self._do(escalation.tick(self._plan, self._clock.now()))

    def _act(self, action: Action) -> None:
        match action:
            case Action.TERMINATE | Action.RESEND:
                self._note_signal(signal_name(self._signal), "term_sent")
                self._process.pass_on(self._signal)
            case Action.KILL:
                self._note_signal("SIGKILL", "kill_sent")
                self._process.kill()
            case Action.QUARANTINE:
                self._give_up()
            case Action.DUMP:
                pass

    def _note_signal(self, name: str, phase: str) -> None:
        self._phase_times.note(phase, self._clock.now())
        self._last_signal = name

    # ── the end ──

    def on_ended(self) -> None:
        """Note that the command has ended, and that what it has left is being killed."""
        self._has_ended = True
        self._phase_times.note("exited", self._clock.now())
        self._close()
        if self._plan is not None:
            self._plan = escalation.exited(self._plan)
        self._timers.append(self._clock.call_at(self._clock.now() + UNKILLABLE_S, self._give_up))

    def on_gone(self, gone: Gone) -> None:
        """Note that nothing of it is left."""
        ending = gone.ending
        status = ExitStatus() if ending is None else ExitStatus(ending.exit_code, ending.signal, ending.core_dumped)
        self._phase_times.note_gone(gone, status, self._clock.now())
        self._finish(self._outcome(gone, status), status)

    def _outcome(self, gone: Gone, status: ExitStatus) -> Outcome:
        if self._verdict is None and gone.zygote_lost and status.exit_code is None:
            return Outcome("failed", "worker_lost", NO_KEEPER, {})
        if self._verdict is None and status.exit_code is not None:
            if status.exit_code == 0:
                return Outcome("completed")
            return Outcome("failed", "exit", f"exit code {status.exit_code}", {"exit_code": status.exit_code})
        return exit_outcome.classify(
            self._verdict, None, status, Evidence(entered=True, memory_max_struck=gone.memory_max_struck)
        )

    def _give_up(self) -> None:
        message = f"a process of the command still exists {UNKILLABLE_S:g} s after SIGKILL"
        self._phase_times.note_unkillable()
        self._finish(Outcome("failed", "unkillable", message, {}), ExitStatus())

    def _finish(self, outcome: Outcome, status: ExitStatus) -> None:
        if self.end is not None:
            return
        verdict = self._verdict or Verdict("")
        certificate = self._phase_times.certificate(
            cause=verdict.code,
            by=verdict.by,
            reason=verdict.reason,
            grace_s=None if self._plan is None else self._plan.rules.grace_s,
            last_signal=self._last_signal,
        )
        self._close()
        self.end = CommandEnd(outcome, status, certificate, self._clock.now() - self._began, signal_name(self._signal))

    def _close(self) -> None:
        self._monitor.close()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._plan_timer is not None:
            self._plan_timer.cancel()
