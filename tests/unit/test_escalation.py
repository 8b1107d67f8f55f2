"""The plan that ends an attempt, move by move."""

from __future__ import annotations

import pytest

from killable.supervisor.attempts import escalation
from killable.supervisor.attempts.escalation import (
    DUMP_LEAD_S,
    DUMP_S,
    LOOK_AGAIN_S,
    RESEND_S,
    Action,
    Escalation,
    Phase,
    Rules,
)
from killable.supervisor.ports import ProcessorUse

RULES = Rules(grace_s=5.0, ack_s=0.5, ack_cpu_s=0.1, unkillable_s=10.0, cores=2)
NOW = 100.0
FOREVER = float("inf")


def asked(rules: Rules = RULES) -> Escalation:
    state, actions = escalation.begin(rules, NOW)
    assert actions == (Action.TERMINATE,)
    return state


def delivered(rules: Rules = RULES, at: float = NOW, cpu_s: float = 1.0) -> Escalation:
    state, actions = escalation.delivered(asked(rules), at, ProcessorUse(cpu_s))
    assert actions == ()
    return hushed(state)


def hushed(state: Escalation) -> Escalation:
    """Without the signal's repetition and the early request for stacks, which have tests of their own."""
    return state._replace(resend_at=None, dump_at=state.grace_ends, wake_at=min(state.grace_ends, state.look_at))


def acknowledged(rules: Rules = RULES) -> Escalation:
    state, actions = escalation.acknowledged(delivered(rules), NOW)
    assert actions == ()
    return state


def in_phase(phase: Phase) -> Escalation:
    return {
        Phase.ASKED: asked(),
        Phase.DELIVERED: delivered(),
        Phase.ACKNOWLEDGED: acknowledged(),
        Phase.DUMPING: escalation.tick(asked(), NOW + 5)[0],
        Phase.KILLED: escalation.begin(RULES._replace(grace_s=0), NOW)[0],
        Phase.UNKILLABLE: escalation.tick(escalation.begin(RULES._replace(grace_s=0), NOW)[0], NOW + 10)[0],
        Phase.EXITED: escalation.exited(asked()),
    }[phase]


def test_with_stack_a_dump_comes_before_the_kill_without_grace_too() -> None:
    rules = RULES._replace(grace_s=0.0, stack=True)
    state, actions = escalation.begin(rules, NOW)
    assert (state.phase, actions, state.grace_ends) == (Phase.DUMPING, (Action.DUMP,), NOW)
    state, actions = escalation.tick(state, state.wake_at)
    assert (state.phase, actions) == (Phase.KILLED, (Action.KILL,))
    waiting = asked(RULES._replace(stack=True))
    hurried, actions = escalation.shorten(waiting, NOW + 1, 0.0)
    assert (hurried.phase, actions) == (Phase.DUMPING, (Action.DUMP,))
    again, actions = escalation.shorten(hurried, NOW + 1.001, 0.0)
    assert (again.phase, actions) == (Phase.DUMPING, ())
    heard, _ = escalation.acknowledged(waiting, NOW + 0.5)
    killed, actions = escalation.shorten(heard, NOW + 1, 0.0)
    assert (killed.phase, actions) == (Phase.KILLED, (Action.KILL,)), "it has written its stack itself"


def test_every_phase_is_reached_here() -> None:
    assert [in_phase(phase).phase for phase in Phase] == list(Phase)


def test_with_a_grace_the_worker_is_asked() -> None:
    state = asked()
    assert (state.phase, state.grace_ends, state.wake_at) == (Phase.ASKED, NOW + 5, NOW + 5 - DUMP_LEAD_S)


@pytest.mark.parametrize("grace_s", [0.0, -1.0])
def test_without_a_grace_it_is_killed_at_once(grace_s: float) -> None:
    state, actions = escalation.begin(RULES._replace(grace_s=grace_s), NOW)
    assert actions == (Action.KILL,)
    assert (state.phase, state.wake_at) == (Phase.KILLED, NOW + 10)


@pytest.mark.parametrize("dumped", [True, False])
def test_a_signal_that_nobody_noticed_has_the_whole_grace_and_a_dump_before_its_end(dumped: bool) -> None:
    state = asked()
    assert escalation.tick(state, NOW + 4.899) == (state, ())
    state, actions = escalation.tick(state, NOW + 4.9)
    assert (state.phase, actions, state.awaits_stack) == (Phase.ASKED, (Action.DUMP,), True)
    assert escalation.tick(state, NOW + 4.999, dumped=dumped) == (state, ())
    state, actions = escalation.tick(state, NOW + 5, dumped=dumped)
    assert (state.phase, actions, state.early_kill) == (Phase.KILLED, (Action.KILL,), None)


def test_a_dump_that_was_missed_comes_when_the_grace_is_over() -> None:
    state, actions = escalation.tick(asked(), NOW + 5)
    assert (state.phase, actions) == (Phase.DUMPING, (Action.DUMP,))
    assert escalation.tick(state, NOW + 5 + DUMP_S / 2) == (state, ())
    state, actions = escalation.tick(state, NOW + 5 + DUMP_S)
    assert (state.phase, actions, state.early_kill) == (Phase.KILLED, (Action.KILL,), None)


def test_what_is_still_there_after_sigkill_is_given_up_once() -> None:
    state = in_phase(Phase.KILLED)
    assert escalation.tick(state, NOW + 9.999) == (state, ())
    state, actions = escalation.tick(state, NOW + 10)
    assert (state.phase, actions, state.wake_at) == (Phase.UNKILLABLE, (Action.QUARANTINE,), FOREVER)
    assert escalation.tick(state, NOW + 1e9) == (state, ())


# ── delivered ──


def test_a_delivery_is_looked_at_again_after_ack_s() -> None:
    state = delivered(at=NOW + 0.001, cpu_s=7.0)
    assert (state.phase, state.wake_at) == (Phase.DELIVERED, NOW + 0.501)
    assert (state.delivered_at, state.use_at_delivery.cpu_s) == (NOW + 0.001, 7.0)
    assert state.wants_use


@pytest.mark.parametrize("ack_s", [None, 5.0, 6.0])
def test_without_a_shorter_ack_s_it_is_the_plain_sigterm_grace_sigkill(ack_s: float | None) -> None:
    state = delivered(RULES._replace(ack_s=ack_s))
    assert state.wake_at == state.grace_ends and not state.wants_use
    state, actions = escalation.tick(state, NOW + 5, None)
    assert actions == (Action.DUMP,) and state.early_kill is None


def test_a_late_delivery_lengthens_nothing() -> None:
    state = delivered(at=NOW + 4.8)
    assert state.wake_at == NOW + 5


def rings(state: Escalation, until: float) -> list[float]:
    """Return when the signal is repeated, in seconds after the delivery: of a worker that uses no processor time."""
    found = []
    while state.wake_at < until:
        now = state.wake_at
        state, actions = escalation.tick(state, now, ProcessorUse(1.0))
        assert set(actions) <= {Action.RESEND, Action.DUMP}
        found += [round(now - NOW, 6)] * actions.count(Action.RESEND)
    return found


@pytest.mark.parametrize("ack_s", [0.5, 5.0, 6.0, None])
def test_the_signal_is_repeated_until_it_is_acknowledged(ack_s: float | None) -> None:
    """Noted right before a call that waits, it would wake nobody."""
    state, _ = escalation.delivered(asked(RULES._replace(ack_s=ack_s)), NOW, ProcessorUse(1.0))
    assert rings(state, NOW + 5) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    heard, _ = escalation.acknowledged(state, NOW + 0.01)
    assert heard.resend_at is None and heard.wake_at == heard.grace_ends


def test_a_job_that_answers_itself_is_told_once() -> None:
    state, _ = escalation.delivered(asked(), NOW, ProcessorUse(1.0))
    assert rings(escalation.handled_by_job(state)[0], NOW + 5) == []
    rules = RULES._replace(has_own_handler=True)
    assert rings(escalation.delivered(asked(rules), NOW, ProcessorUse(1.0))[0], NOW + 5) == []
    assert not RULES.has_own_handler and RULES.adaptive and not rules.adaptive
    heard, _ = escalation.acknowledged(state, NOW + 0.01)
    lost, _ = escalation.swallowed(heard, NOW + 0.02)
    assert rings(lost, NOW + 5) == [0.025]
    alone, _ = escalation.handled_by_job(lost)  # set by its clean-up
    assert rings(alone, NOW + 5) == [] and alone.wake_at == alone.grace_ends
    assert escalation.swallowed(alone, NOW + 0.03) == (alone, ())


def test_a_look_that_comes_late_rings_all_the_same() -> None:
    state, _ = escalation.delivered(asked(), NOW, ProcessorUse(1.0))
    assert state.resend_at == NOW + 0.05
    late = NOW + 0.07
    state, actions = escalation.tick(state, late, ProcessorUse(1.0))
    assert actions == (Action.RESEND,)
    assert state.resend_at == pytest.approx(NOW + 0.14), "twice as long after its delivery as now"


def test_what_is_found_stuck_is_not_told_again() -> None:
    state, _ = escalation.delivered(asked(), NOW, ProcessorUse(1.0))
    _, actions = escalation.tick(state, NOW + 0.5, ProcessorUse(1.2))
    assert actions == (Action.DUMP,)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ASKED])
def test_later_deliveries_change_nothing(phase: Phase) -> None:
    state = in_phase(phase)
    assert escalation.delivered(state, NOW + 1, ProcessorUse(9.0)) == (state, ())


def test_stuck_needs_both_the_time_and_the_processor_time() -> None:
    state, actions = escalation.tick(delivered(), NOW + 0.5, ProcessorUse(1.1))
    assert (state.phase, actions) == (Phase.DUMPING, (Action.DUMP,))
    assert state.early_kill == (
        "not acknowledged for 0.500 s and 0.100 s of processor time since the signal was delivered "
        "(ack_s 0.5): native code did not react; raise ack_s to wait longer"
    )
    killed, actions = escalation.tick(state, NOW + 0.5 + DUMP_S)
    assert actions == (Action.KILL,) and killed.early_kill == state.early_kill


@pytest.mark.parametrize(
    ("used_s", "again_s"),
    [(0.0, 0.05), (0.04, 0.03), (0.099, LOOK_AGAIN_S), (0.0999999, LOOK_AGAIN_S)],
)
def test_a_worker_that_used_too_little_is_looked_at_again(used_s: float, again_s: float) -> None:
    """With two cores the missing processor time cannot pass in less than half of it."""
    state, actions = escalation.tick(delivered(cpu_s=1.0), NOW + 0.5, ProcessorUse(1.0 + used_s))
    assert actions == () and state.phase is Phase.DELIVERED
    assert state.wake_at == pytest.approx(NOW + 0.5 + again_s)


@pytest.mark.parametrize(("cores", "again_s"), [(0, 0.1), (1, 0.1), (2, 0.05), (4, 0.025)])
def test_the_more_cores_the_sooner_it_is_looked_at_again(cores: int, again_s: float) -> None:
    state, _ = escalation.tick(delivered(RULES._replace(cores=cores)), NOW + 0.5, ProcessorUse(1.0))
    assert state.wake_at == pytest.approx(NOW + 0.5 + again_s)


def test_a_worker_that_nobody_counted_cores_for_has_one() -> None:
    assert Rules(grace_s=1, ack_s=None, ack_cpu_s=0.1, unkillable_s=1).cores == 1


def test_what_could_not_be_read_at_the_delivery_counts_from_nothing() -> None:
    state = hushed(escalation.delivered(asked(), NOW, None)[0])
    assert escalation.tick(state, NOW + 0.5, ProcessorUse(0.09))[1] == ()
    assert escalation.tick(state, NOW + 0.5, ProcessorUse(0.1))[1] == (Action.DUMP,)


def test_the_constants_are_what_their_reasons_say() -> None:
    """The lengths of a dump, the pause before another SIGTERM; waits for the interpreter lock, in runs and `ack_s`."""
    assert (DUMP_LEAD_S, escalation.DUMP_LATE_S_MAX, DUMP_S, escalation.DUMP_S_MAX) == (0.1, 0.0, 0.005, 0.1)
    assert (LOOK_AGAIN_S, RESEND_S, escalation.STALL_S) == (0.010, 0.005, 0.1)
    assert (escalation.LOCK_RUNS, escalation.LOCK_PATIENCE) == (4, 4)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_timer_that_is_late_does_what_was_due(phase: Phase) -> None:
    """However late: nobody is looked at, rung or waited for after the grace, nor after the longest dump.

    A grace whose end was missed is lengthened first, once, by what it was missed by, and by no more than it was.
    """
    state, late = in_phase(phase), NOW + 1e6
    if phase in (Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED):
        state, actions = escalation.tick(state, late, ProcessorUse(1.0))
        assert actions == () and state.phase is phase and state.grace_ends == late + 5
        late += 1e6
    due = {
        Phase.ASKED: (Action.DUMP,),
        Phase.DELIVERED: (Action.DUMP,),
        Phase.ACKNOWLEDGED: (Action.KILL,),
        Phase.DUMPING: (Action.KILL,),
        Phase.KILLED: (Action.QUARANTINE,),
        Phase.UNKILLABLE: (),
        Phase.EXITED: (),
    }
    moved, actions = escalation.tick(state, late, ProcessorUse(1.0), dumped=False)
    assert actions == due[phase] and moved.early_kill is None
    if phase is Phase.ACKNOWLEDGED:
        swallowed, _ = escalation.swallowed(state, NOW + 1)
        assert escalation.tick(swallowed, late)[1] == (Action.KILL,)


@pytest.mark.parametrize("missed_by_s", [0.125, 3.0, 5.0])
def test_a_grace_in_which_the_machine_stood_still_is_lengthened_by_that_once(missed_by_s: float) -> None:
    late = NOW + 5 + missed_by_s
    state, actions = escalation.tick(acknowledged(), late)
    assert (actions, state.grace_ends, state.wake_at) == ((), late + missed_by_s, late + missed_by_s)
    assert escalation.shorten(state, late, 0.0)[1] == (Action.KILL,)
    assert escalation.tick(state, state.wake_at + 3)[1] == (Action.KILL,)


def test_less_grace_that_comes_before_the_end_is_seen_to_be_missed_counts() -> None:
    late = NOW + 8
    assert escalation.shorten(acknowledged(), late, 0.0)[1] == (Action.KILL,)
    state, actions = escalation.shorten(acknowledged(), late, 0.5)
    assert (actions, state.grace_ends, state.wake_at) == ((), late + 0.5, late + 0.5)
    assert escalation.tick(state, late + 3)[1] == (Action.KILL,)


def test_what_was_missed_with_the_end_of_the_grace_is_done_at_once() -> None:
    """A stop that was lost is raised again, a signal repeated, a worker that cannot hear looked at."""
    late = NOW + 8
    for state in (escalation.swallowed(acknowledged(), NOW + 4.9)[0], escalation.delivered(asked(), NOW, None)[0]):
        state, _ = escalation.tick(state, late, ProcessorUse(0.0))
        assert state.wake_at <= late
        assert escalation.tick(state, late, ProcessorUse(0.0))[1] == (Action.RESEND,)
    heard, _ = escalation.delivered(asked(), late, ProcessorUse(1.0))  # when the machine goes on
    assert escalation.tick(heard, late, ProcessorUse(1.0))[0].look_at == late + 0.5
    stuck, _ = escalation.tick(delivered(), late, ProcessorUse(9.0))
    assert stuck.wake_at <= late < stuck.look_at == late + LOOK_AGAIN_S
    stuck, actions = escalation.tick(stuck, late, ProcessorUse(9.0))
    assert actions == (Action.DUMP,) and stuck.wake_at == stuck.look_at
    assert escalation.tick(stuck, stuck.look_at, ProcessorUse(9.0))[1] == (Action.KILL,)


def test_an_end_of_the_grace_that_is_seen_about_in_time_is_the_end() -> None:
    assert escalation.tick(acknowledged(), NOW + 5 + 0.0625)[1] == (Action.KILL,)
    ends_at_zero = acknowledged()._replace(grace_ends=0.0, wake_at=0.0)  # where floats are exact
    assert escalation.tick(ends_at_zero, escalation.STALL_S)[1] == (), "and this is late"


def test_a_clock_that_has_just_begun_counts_as_any_other() -> None:
    """CLOCK_MONOTONIC counts from the boot (clock_gettime(2)): soon after it, now is many times an earlier moment."""
    heard = acknowledged()._replace(grace_ends=1.0, wake_at=1.0)
    assert escalation.tick(heard, 4.0)[0].grace_ends == 7.0, "missed by 3 s"
    stuck = delivered()._replace(delivered_at=0.125, wake_at=0.625, look_at=0.625)
    state, actions = escalation.tick(stuck, 0.625, ProcessorUse(2.0))
    assert actions == (Action.DUMP,) and str(state.early_kill).startswith("not acknowledged for 0.500 s and 1.000 s")
    waiting = stuck._replace(use_at_delivery=ProcessorUse(1.0, 0.5, 100))
    use = ProcessorUse(2.0, 0.5, 200)
    patience_ends = 0.125 + escalation.LOCK_PATIENCE * 0.5
    assert escalation.tick(waiting, patience_ends - 0.125, use)[1] == ()
    assert escalation.tick(waiting, patience_ends, use)[1] == (Action.DUMP,)


def test_a_starved_worker_keeps_its_grace() -> None:
    state, now, looks = delivered(), NOW + 0.5, 0
    dumps = []
    while state.phase is Phase.DELIVERED:
        state, actions = escalation.tick(state, now, ProcessorUse(1.0))
        dumps += [now] * actions.count(Action.DUMP)
        ended, now, looks = now, state.wake_at, looks + 1
    assert ended == NOW + 5 and state.early_kill is None
    assert dumps == [pytest.approx(NOW + 5 - DUMP_LEAD_S)], "once, although it is looked at again and again"
    assert looks == pytest.approx(92, abs=2)


@pytest.mark.parametrize(
    ("computed_s", "runs", "stuck"),
    [(0.0, escalation.LOCK_RUNS, False), (0.0, escalation.LOCK_RUNS - 1, True), (0.11, 50, True), (0.09, 50, False)],
)
def test_one_that_waits_for_the_interpreter_lock_is_not_stuck(computed_s: float, runs: int, stuck: bool) -> None:
    """Its other threads compute; its main thread is awake again and again, and asks for its turn."""
    state = hushed(escalation.delivered(asked(), NOW, ProcessorUse(1.0, 0.5, 103))[0])
    state, actions = escalation.tick(state, NOW + 0.5, ProcessorUse(2.0, 0.5 + computed_s, 103 + runs))
    assert (Action.DUMP in actions) is stuck
    assert stuck or state.wake_at == NOW + 0.5 + LOOK_AGAIN_S


def test_native_code_in_another_thread_that_keeps_the_interpreter_lock_is_stuck_in_the_end() -> None:
    state = hushed(escalation.delivered(asked(), NOW, ProcessorUse(1.0, 0.5, 100))[0])
    now, use = NOW + 0.5, ProcessorUse(2.0, 0.5, 200)
    while not (move := escalation.tick(state, now, use))[1]:
        state, now = move[0], move[0].wake_at
    assert move[1] == (Action.DUMP,) and move[0].early_kill is not None
    assert now == pytest.approx(NOW + escalation.LOCK_PATIENCE * 0.5, abs=LOOK_AGAIN_S)


def test_a_main_thread_that_computed_enough_is_stuck_however_much_it_had_before() -> None:
    """0.75 s where it had 0.25 s: a whole multiple, of which nothing may be left over; and `ack_cpu_s` to the point."""
    for computed_s, stuck in ((0.5, True), (0.125, True), (0.0625, False)):
        state = hushed(escalation.delivered(asked(RULES._replace(ack_cpu_s=0.125)), NOW, ProcessorUse(1.0, 0.25, 0))[0])
        use = ProcessorUse(3.0, 0.25 + computed_s, 9)
        assert (escalation.tick(state, NOW + 0.5, use)[1] == (Action.DUMP,)) is stuck


@pytest.mark.parametrize(("ack_s", "late"), [(0.5, 2.0), (0.25, 1.0), (1.0, 4.0)])
def test_the_wait_for_the_interpreter_lock_ends_at_a_multiple_of_ack_s(ack_s: float, late: float) -> None:
    waits = ProcessorUse(2.0, 0.5, 200)
    state = hushed(escalation.delivered(asked(RULES._replace(ack_s=ack_s)), NOW, ProcessorUse(1.0, 0.5, 100))[0])
    assert escalation.tick(state, NOW + late - 0.125, waits)[1] == ()
    assert escalation.tick(state, NOW + late, waits)[1] == (Action.DUMP,)


@pytest.mark.parametrize("before", [ProcessorUse(1.0), ProcessorUse(1.0, 0.5, None)])
def test_where_the_kernel_does_not_tell_of_the_main_thread_the_process_counts(before: ProcessorUse) -> None:
    state = hushed(escalation.delivered(asked(), NOW, before)[0])
    assert escalation.tick(state, NOW + 0.5, ProcessorUse(2.0, 0.5, 200))[1] == (Action.DUMP,)


def test_a_worker_whose_processor_time_cannot_be_read_keeps_its_grace() -> None:
    state, actions = escalation.tick(delivered(), NOW + 0.5, None)
    assert actions == () and state.wake_at == NOW + 0.5 + LOOK_AGAIN_S


def test_the_next_look_is_never_after_the_grace() -> None:
    state, _ = escalation.tick(delivered(), NOW + 4.99, ProcessorUse(1.0))
    assert state.wake_at == NOW + 5
    state, actions = escalation.tick(state, NOW + 5, ProcessorUse(1.0))
    assert actions == (Action.DUMP,)


# ── acknowledged ──


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.DELIVERED])
def test_an_acknowledgement_gives_the_whole_grace_and_no_dump(phase: Phase) -> None:
    state, actions = escalation.acknowledged(in_phase(phase), NOW + 0.1)
    assert (state.phase, actions, state.wake_at) == (Phase.ACKNOWLEDGED, (), NOW + 5)
    assert not state.wants_use
    state, actions = escalation.tick(state, NOW + 5)
    assert (state.phase, actions, state.early_kill) == (Phase.KILLED, (Action.KILL,), None)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.ASKED, Phase.DELIVERED)])
def test_a_late_acknowledgement_changes_nothing(phase: Phase) -> None:
    state = in_phase(phase)
    assert escalation.acknowledged(state, NOW + 1) == (state, ())


def before_look(cpu_s: float) -> escalation.Move:
    """Return the move shortly before `ack_s` is over, of a worker that has used so much since the delivery."""
    waiting, _ = escalation.delivered(asked(), NOW, ProcessorUse(1.0))
    silent = waiting._replace(resend_at=None, wake_at=waiting.dump_at)
    assert silent.wake_at == pytest.approx(NOW + 0.5 - DUMP_LEAD_S)
    return escalation.tick(silent, silent.wake_at, ProcessorUse(1.0 + cpu_s))


@pytest.mark.parametrize("dumped", [True, False])
def test_one_that_computes_is_asked_for_its_stacks_before_ack_s_is_over(dumped: bool) -> None:
    state, actions = before_look(cpu_s=0.4)
    assert (state.phase, actions, state.wake_at) == (Phase.DELIVERED, (Action.DUMP,), NOW + 0.5)
    killed, actions = escalation.tick(state, NOW + 0.5, ProcessorUse(1.5), dumped=dumped)
    assert actions == (Action.KILL,) and str(killed.early_kill).startswith("not acknowledged for 0.500 s and 0.500 s")
    heard, _ = escalation.acknowledged(state, NOW + 0.49)
    assert (heard.phase, heard.wake_at, heard.awaits_stack) == (Phase.ACKNOWLEDGED, NOW + 5, False)


def test_one_that_computes_too_little_for_it_is_not_asked_for_its_stacks_yet() -> None:
    state, actions = before_look(cpu_s=0.0799)
    assert actions == () and state.dump_at == pytest.approx(NOW + 5 - DUMP_LEAD_S)
    assert before_look(cpu_s=0.0801)[1] == (Action.DUMP,), "a fifth of a processor until now, as `ack_cpu_s` of `ack_s`"


def test_one_that_stopped_computing_is_asked_again_before_its_grace_is_over() -> None:
    state, _ = before_look(cpu_s=0.09)
    state, actions = escalation.tick(state, NOW + 0.5, ProcessorUse(1.09))
    assert (actions, state.awaits_stack) == ((), False)
    assert state.dump_at == pytest.approx(NOW + 5 - DUMP_LEAD_S)


def test_one_found_stuck_later_is_asked_then_and_killed_within_its_grace() -> None:
    state, actions = escalation.tick(delivered(), NOW + 0.5, ProcessorUse(2.0))
    assert actions == (Action.DUMP,) and state.dump_ends == pytest.approx(NOW + 0.5 + escalation.DUMP_S_MAX)
    waiting, actions = escalation.tick(state, NOW + 0.55, dumped=False)
    assert (waiting.phase, actions) == (Phase.DUMPING, ())
    assert escalation.tick(waiting, waiting.wake_at, dumped=True)[1] == (Action.KILL,)
    assert escalation.tick(waiting, NOW + 0.6, dumped=False)[1] == (Action.KILL,)
    hurried, actions = escalation.shorten(waiting, NOW + 0.55, 0.01)
    assert actions == () and hurried.wake_at <= hurried.dump_ends == pytest.approx(NOW + 0.56)
    assert escalation.shorten(waiting, NOW + 0.55, 0.0)[1] == (Action.KILL,)
    brief = delivered(RULES._replace(grace_s=0.52))
    state, _ = escalation.tick(brief, NOW + 0.5, ProcessorUse(2.0))
    assert state.dump_ends == state.grace_ends


def test_a_swallowed_stop_is_rung_again_but_not_at_once() -> None:
    state, actions = escalation.swallowed(acknowledged(), NOW + 1)
    assert (actions, state.wake_at) == ((), NOW + 1 + RESEND_S)
    assert escalation.tick(state, NOW + 1) == (state, ())
    state, actions = escalation.tick(state, NOW + 1 + RESEND_S)
    assert (actions, state.phase, state.wake_at) == ((Action.RESEND,), Phase.ACKNOWLEDGED, NOW + 5)
    state, actions = escalation.tick(state, NOW + 5)
    assert actions == (Action.KILL,)


def test_a_stop_that_is_swallowed_at_the_end_is_not_rung_after_the_grace() -> None:
    state, _ = escalation.swallowed(acknowledged(), NOW + 4.999)
    state, actions = escalation.tick(state, NOW + 5)
    assert actions == (Action.KILL,)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ACKNOWLEDGED])
def test_nothing_is_swallowed_that_was_not_acknowledged(phase: Phase) -> None:
    state = in_phase(phase)
    assert escalation.swallowed(state, NOW + 1) == (state, ())


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.DELIVERED])
def test_a_job_that_answers_itself_has_its_whole_grace(phase: Phase) -> None:
    state, actions = escalation.handled_by_job(in_phase(phase))
    state = hushed(escalation.delivered(state, NOW + 0.1, 1.0)[0])
    assert actions == () and state.wake_at == NOW + 5 and not state.wants_use


# ── a caller in a hurry ──


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED])
def test_less_grace_is_taken_and_counts_from_the_request(phase: Phase) -> None:
    state, actions = escalation.shorten(in_phase(phase), NOW + 0.2, 0.1)
    assert actions == ()
    assert state.grace_ends == pytest.approx(NOW + 0.3)
    assert state.wake_at == pytest.approx(NOW + (0.3 if phase is Phase.ACKNOWLEDGED else 0.25)), "half, for the stack"
    assert state.rules.grace_s == 0.1
    state, actions = escalation.tick(state, NOW + 0.3, ProcessorUse(1.0))
    assert actions == ((Action.KILL,) if phase is Phase.ACKNOWLEDGED else (Action.DUMP,))


@pytest.mark.parametrize("grace_s", [0.0, -1.0])
@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED, Phase.DUMPING])
def test_no_grace_kills_at_once(phase: Phase, grace_s: float) -> None:
    state, actions = escalation.shorten(in_phase(phase), NOW + 0.2, grace_s)
    assert (state.phase, actions, state.wake_at) == (Phase.KILLED, (Action.KILL,), NOW + 10.2)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("grace_s", [4.0, 5.0, 60.0, FOREVER])
def test_more_grace_is_ignored(phase: Phase, grace_s: float) -> None:
    state = in_phase(phase)
    assert escalation.shorten(state, NOW + 1, grace_s) == (state, ())


def test_a_shorter_grace_keeps_an_earlier_look() -> None:
    state, _ = escalation.shorten(delivered(), NOW, 2.0)
    assert (state.wake_at, state.grace_ends) == (pytest.approx(NOW + 0.4), NOW + 2)


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.DELIVERED, Phase.ACKNOWLEDGED, Phase.DUMPING])
def test_a_process_that_stays_when_its_job_is_over_is_killed_and_keeps_its_grace(phase: Phase) -> None:
    state, actions = escalation.lingers(in_phase(phase), NOW + 6)
    assert (state.phase, state.wake_at, actions) == (Phase.KILLED, NOW + 6 + RULES.unkillable_s, (Action.KILL,))
    assert state.rules == RULES


@pytest.mark.parametrize("phase", [Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED])
def test_one_that_is_killed_or_gone_does_not_stay(phase: Phase) -> None:
    assert escalation.lingers(in_phase(phase), NOW + 6) == (in_phase(phase), ())


@pytest.mark.parametrize("phase", [Phase.KILLED, Phase.UNKILLABLE, Phase.EXITED])
def test_what_is_killed_or_gone_is_not_killed_again(phase: Phase) -> None:
    state = in_phase(phase)
    assert escalation.shorten(state, NOW + 0.1, 0.0) == (state, ())


@pytest.mark.parametrize("phase", Phase)
def test_after_the_exit_nothing_is_due_whatever_comes(phase: Phase) -> None:
    state = escalation.exited(in_phase(phase))
    assert state.wake_at == FOREVER
    for move in (
        escalation.tick(state, NOW + 1e6, 1e6),
        escalation.delivered(state, NOW, 0.0),
        escalation.acknowledged(state, NOW),
        escalation.swallowed(state, NOW),
        escalation.shorten(state, NOW, 0.0),
    ):
        assert move == (state, ())


@pytest.mark.parametrize("phase", Phase)
def test_nothing_happens_before_its_time(phase: Phase) -> None:
    state = in_phase(phase)
    early = min(state.wake_at, NOW + 1e6) - 0.001
    assert escalation.tick(state, early, 1e6) == (state, ())


def test_a_dump_that_has_not_come_is_waited_for_a_little_longer() -> None:
    state, _ = escalation.tick(asked(), NOW + 5)
    waiting, actions = escalation.tick(state, NOW + 5 + DUMP_S, dumped=False)
    assert (waiting.phase, actions) == (Phase.DUMPING, ())
    assert waiting.wake_at == pytest.approx(NOW + 5 + 2 * DUMP_S)
    assert escalation.tick(waiting, waiting.wake_at)[1] == (Action.KILL,)
    now = NOW + 5 + escalation.DUMP_S_MAX
    assert escalation.tick(waiting, now, dumped=False)[1] == (Action.KILL,)
