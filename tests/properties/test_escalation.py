"""The plan that ends an attempt, under everything that can come and in any order, each at its time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from killable.supervisor.attempts import escalation
from killable.supervisor.attempts.escalation import (
    DUMP_S,
    DUMP_S_MAX,
    RESEND_S,
    RESEND_UNACKNOWLEDGED_S,
    STALL_S,
    Action,
    Escalation,
    Move,
    Phase,
    Rules,
)
from killable.supervisor.ports import ProcessorUse

SLACK_S = 1e-9
START_S = 1.0
"""The clock began just before: a moment is soon over twice as large as an earlier one, so that none is a duration."""
RULES = Rules(grace_s=5.0, ack_s=0.5, ack_cpu_s=0.1, unkillable_s=10.0)
seconds = st.floats(0, 10, allow_nan=False)
rules_of_any_kind = st.builds(
    Rules,
    grace_s=seconds,
    ack_s=st.none() | seconds,
    ack_cpu_s=st.floats(0, 1),
    unkillable_s=st.floats(0.1, 20),
    cores=st.integers(0, 64),
)
events = st.tuples(
    st.sampled_from(["delivered", "acknowledged", "swallowed", "shorten", "replaced", "lingers", "nothing", "exited"]),
    st.floats(0, 3),  # after so many seconds
    st.floats(0, 12),  # the grace that is asked for, or the processor time that was used meanwhile
)


@dataclass
class Run:
    """Plays an attempt: every timer fires exactly when it was set, but for those due while the machine stands still."""

    rules: Rules
    cpu_readable: bool = True
    dump_s: float = 0.0
    """From the dump signal to the stack."""
    still: tuple[float, float] = (0.0, 0.0)
    """From when to when it does."""
    now: float = START_S
    cpu_s: float = 5.0
    acts: list[tuple[float, Action]] = field(default_factory=list)
    grace_ends: list[float] = field(default_factory=list)
    acknowledged_at: float | None = None
    delivered_at: float | None = None
    cpu_at_delivery: float = 0.0
    swallowed_at: float | None = None
    replaced_at: float = float("inf")
    exited_at: float | None = None

    def begin(self) -> None:
        self.take(escalation.begin(self.rules, self.now))

    def take(self, move: Move) -> None:
        self.state: Escalation
        self.state, actions = move
        self.acts += [(self.now, action) for action in actions]
        self.grace_ends.append(self.state.grace_ends)

    def pass_time(self, span_s: float, cpu_s: float) -> None:
        """Let time go by, and as much processor time, evenly."""
        until, rate = self.now + span_s, cpu_s / span_s if span_s else 0.0
        turns = 0
        wakes = still_from = self.still[0]
        if not still_from < until < self.still[1]:
            wakes = until
        else:  # what happens next is heard before the timers that were due
            until = self.still[1]
        while self.state.wake_at <= wakes:
            turns += 1
            assert turns < 5000, f"the plan wakes itself for ever: {self.state}"
            at = max(self.now, self.state.wake_at)
            if still_from < at < self.still[1]:
                at = self.still[1]
            self.cpu_s, self.now = self.cpu_s + rate * (at - self.now), at
            self.tick()
        self.cpu_s += rate * max(0.0, until - self.now)
        self.now = max(self.now, until)

    def tick(self) -> None:
        before = self.state
        use = ProcessorUse(self.cpu_s) if self.cpu_readable and before.wants_use else None
        dumps = self.at(Action.DUMP)
        dumped = not dumps or self.now >= dumps[-1] + self.dump_s
        self.take(escalation.tick(before, self.now, use, dumped=dumped))
        assert self.state.wake_at > self.now or self.state is not before, "nothing was done and nothing is planned"

    def happen(self, event: str, grace_s: float) -> None:
        match event:
            case "delivered":
                if self.state.phase is Phase.ASKED:
                    self.delivered_at, self.cpu_at_delivery = self.now, self.cpu_s
                self.take(escalation.delivered(self.state, self.now, ProcessorUse(self.cpu_s)))
            case "acknowledged":
                if self.state.phase in (Phase.ASKED, Phase.DELIVERED):
                    self.acknowledged_at = self.now
                self.take(escalation.acknowledged(self.state, self.now))
            case "swallowed":
                if self.state.phase is Phase.ACKNOWLEDGED:
                    self.swallowed_at = self.now
                self.take(escalation.swallowed(self.state, self.now))
            case "shorten":
                self.take(escalation.shorten(self.state, self.now, grace_s))
            case "replaced":
                self.replaced_at = min(self.replaced_at, self.now)
                self.take(escalation.handled_by_job(self.state))
            case "lingers":
                self.take(escalation.lingers(self.state, self.now))
            case "exited":
                self.exited_at = self.exited_at or self.now
                self.state = escalation.exited(self.state)

    def at(self, action: Action) -> list[float]:
        return [moment for moment, each in self.acts if each is action]


@given(rules_of_any_kind, st.booleans(), st.sampled_from((0.0, 0.004, 0.012, 1.0)), st.lists(events, max_size=12))
@example(RULES, True, 0.0, [("delivered", 0.0, 0.0), ("nothing", 3.0, 12.0)])
@example(RULES, True, 0.0, [("delivered", 0.0, 0.0), ("nothing", 2.0, 0.0), ("shorten", 0.001, 0.002)])
@example(RULES, True, 1.0, [("nothing", 3.0, 0.0), ("nothing", 2.001, 0.0), ("shorten", 0.0, 0.001)])
@example(RULES, True, 0.0, [("acknowledged", 0.0, 0.0), ("nothing", 3.0, 0.0), ("swallowed", 1.999, 0.0)])
@example(Rules(1.0, 0.0, 0.0, 1.0), True, 0.004, [("delivered", 0.0, 0.0), ("shorten", 0.0, 1e-5)])
@example(RULES, True, 0.0, [("acknowledged", 0.0, 0.0), ("exited", 0.0, 0.0), ("shorten", 0.0, 0.0)])
def test_any_sequence_of_events(
    rules: Rules, cpu_readable: bool, dump_s: float, sequence: list[tuple[str, float, float]]
) -> None:
    run = Run(rules, cpu_readable, dump_s)
    run.begin()
    for event, span_s, amount in sequence:
        run.pass_time(span_s, amount)
        run.happen(event, amount)
    run.pass_time(10 + 1 + rules.unkillable_s, 0.0)

    kills, dumps = run.at(Action.KILL), run.at(Action.DUMP)
    assert run.grace_ends == sorted(run.grace_ends, reverse=True), "the grace was lengthened"
    if run.exited_at is None:
        assert len(kills) == 1, "it was not killed, or twice"
        is_in_time = not dumps or dumps[-1] < run.state.grace_ends  # else the grace was shorter than the clock shows
        late_s = 0.0 if is_in_time else DUMP_S if dump_s < DUMP_S else DUMP_S_MAX
        assert kills[0] <= run.state.grace_ends + late_s + SLACK_S, "SIGKILL came too late"
        assert run.state.phase is Phase.UNKILLABLE and len(run.at(Action.QUARANTINE)) == 1
    else:
        assert all(moment <= run.exited_at for moment, _ in run.acts), "something was done to a dead process"
        assert run.state.wake_at == float("inf")

    assert len(run.at(Action.TERMINATE)) == (rules.grace_s > 0)
    assert len(dumps) <= 2, "before the look and before the end of the grace"
    if dumps:
        assert run.acknowledged_at is None or run.acknowledged_at >= dumps[-1], "an acknowledged worker was dumped"
    heard_at = float("inf") if run.acknowledged_at is None else run.acknowledged_at
    unheard = [moment for moment in run.at(Action.RESEND) if moment < heard_at]
    again = [moment for moment in run.at(Action.RESEND) if moment >= heard_at]
    assert len(unheard) <= 12, "told over and over"
    for moment in unheard:
        assert run.delivered_at is not None and moment >= run.delivered_at + RESEND_UNACKNOWLEDGED_S - SLACK_S
        assert moment <= run.replaced_at, "the job's own handler heard it again"
    for moment in again:
        assert run.swallowed_at is not None and heard_at + RESEND_S - SLACK_S <= moment < run.state.grace_ends

    if run.state.early_kill is not None:
        assert rules.ack_s is not None and run.delivered_at is not None and run.acknowledged_at is None
        for killed in kills:
            assert killed - run.delivered_at >= rules.ack_s - SLACK_S, "killed before ack_s had passed"
            assert killed <= dumps[-1] + DUMP_S_MAX + SLACK_S, "found stuck and left alive, or its stack is an old one"
        assert cpu_readable


@given(rules_of_any_kind, st.floats(0, 20), st.floats(0, 20), st.lists(events, max_size=12))
@example(RULES, 4.0, 3.0, [("acknowledged", 0.0, 0.0), ("shorten", 5.0, 0.0)])
@example(RULES, 4.0, 3.0, [("acknowledged", 0.0, 0.0), ("shorten", 5.0, 0.5)])
@example(RULES, 4.0, 9.0, [("delivered", 0.0, 0.0), ("nothing", 12.0, 12.0)])
@example(RULES, 4.0, 3.0, [("delivered", 5.0, 1.0), ("nothing", 1.0, 1.0)])
@example(Rules(grace_s=1.0, ack_s=None, ack_cpu_s=0.0, unkillable_s=1.0), 0.09765625, 1.0, [])
def test_a_machine_that_stands_still_lengthens_a_grace_once_and_by_no_more_than_it_was(
    rules: Rules, from_s: float, for_s: float, sequence: list[tuple[str, float, float]]
) -> None:
    still = (START_S + from_s, START_S + from_s + for_s)
    run = Run(rules, still=still)
    run.begin()
    for event, span_s, amount in sequence:
        run.pass_time(span_s, amount)
        before = run.state.grace_ends
        run.happen(event, amount)
        if event == "shorten":
            assert run.state.grace_ends <= max(before, run.now + amount) + SLACK_S, "less grace was not heard"
    run.pass_time(10 + 1 + rules.unkillable_s + for_s, 0.0)
    run.pass_time(10 + 1 + rules.unkillable_s + for_s, 0.0)

    longer = [(sooner, later) for sooner, later in itertools.pairwise(run.grace_ends) if later > sooner]
    assert len(longer) <= (still[1] - still[0] >= STALL_S)
    for sooner, later in longer:
        assert later <= still[1] + min(still[1] - sooner, rules.grace_s) + SLACK_S
    kills = run.at(Action.KILL)
    if run.state.early_kill is not None:
        assert rules.ack_s is not None and run.delivered_at is not None
        for killed in kills:
            assert killed - run.delivered_at >= rules.ack_s - SLACK_S, "killed before ack_s had passed"
    if run.exited_at is None:
        assert len(kills) == 1 and run.state.phase is Phase.UNKILLABLE
        # A standstill may end shortly behind the grace: then the dump begins at its end.
        assert kills[0] <= max(run.state.grace_ends, still[1]) + DUMP_S_MAX + SLACK_S, "SIGKILL came too late"


@given(rules_of_any_kind, st.floats(0, 1), st.floats(0, 20))
def test_stuck_is_both_times_and_not_one(rules: Rules, delivery_s: float, rate: float) -> None:
    """The whole process's processor time and the clock's: killed early when both have passed, and not before."""
    run = Run(rules)
    run.begin()
    run.pass_time(delivery_s, 0.0)
    run.happen("delivered", 0.0)
    delivered = run.state.phase is Phase.DELIVERED
    run.pass_time(12.0, 12.0 * rate)
    if not delivered:
        return
    (killed,) = run.at(Action.KILL)
    if run.state.early_kill is not None:
        assert rules.ack_s is not None and run.delivered_at is not None
        assert killed - run.delivered_at >= rules.ack_s - SLACK_S
        assert (killed - run.delivered_at) * rate >= rules.ack_cpu_s - 1e-6
    else:
        assert killed == run.state.grace_ends


@given(rules_of_any_kind)
@example(Rules(grace_s=1.5e-223, ack_s=0.0, ack_cpu_s=0.0, unkillable_s=1.0))
def test_a_worker_that_computes_is_not_waited_for_longer_than_it_has_to(rules: Rules) -> None:
    """On all its cores it is found out within one look of the moment at which both times have passed."""
    run = Run(rules)
    run.begin()
    run.happen("delivered", 0.0)
    if run.state.phase is not Phase.DELIVERED or not rules.adaptive:
        return
    cores = max(1, rules.cores)
    run.pass_time(12.0, 12.0 * cores)
    due = START_S + max(rules.ack_s or 0.0, rules.ack_cpu_s / cores)
    is_asked_before = rules.ack_cpu_s <= (rules.ack_s or 0.0) * cores
    (killed,) = run.at(Action.KILL)
    late_s = 0.0 if is_asked_before and rules.ack_s and rules.ack_s > 1e-6 else escalation.LOOK_AGAIN_S + DUMP_S
    ends = run.state.grace_ends
    unasked_s = DUMP_S if ends == START_S else 0.0  # a grace that rounding makes none has no time before its end
    assert killed <= min(ends + unasked_s, due + late_s) + 1e-6
