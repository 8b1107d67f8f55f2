"""Rules that the supervisor must keep towards a process, checked by the fake process when it is called.

Runs in: the test process.
"""

from __future__ import annotations

from support.fake_world import SIGTERM, SLACK_S, Truth, World

from killable.supervisor.attempts.escalation import LOCK_PATIENCE, LOCK_RUNS, RESEND_S
from killable.supervisor.ports import ProcessorUse
from killable.workers.headroom_over_limits import HARD_FACTOR, hard_limit_bytes
from killable.workers.protocol.messages import NOTIFY_ACKNOWLEDGED, NOTIFY_REPLACED, NOTIFY_SWALLOWED


def note_term(world: World, truth: Truth) -> None:
    """SIGTERM only announces an order: without one it means nothing. It is not sent again before its time."""
    now = world.now()
    again = truth.term_at if truth.stop_ordered else truth.expired_at
    if again is not None:
        world.check(now >= truth.swallowed_at + RESEND_S - SLACK_S, f"job {truth.number} is signalled again too soon")
    if not truth.stop_ordered:
        world.check(truth.expire_ordered > 0, f"job {truth.number}: SIGTERM without an order")
        truth.expired_at = now
    elif truth.term_at is None:
        truth.term_at = now
        truth.kill_due = min(truth.kill_due, now + truth.grace_s)


def check_kill(world: World, truth: Truth, use: ProcessorUse, held_bytes: int, processes: int) -> None:
    """SIGKILL comes at the end of the grace and not before, except to one that is proven stuck, or takes all memory."""
    now, name = world.now(), f"job {truth.number}"
    if truth.term_at is None or truth.exited_at is not None or truth.nonsense:
        return
    world.check(now <= truth.kill_latest, f"{name}: SIGKILL comes too late")
    memory, processes_max = truth.limits["memory_bytes"], truth.limits["processes_max"]
    took_all = memory is not None and held_bytes > hard_limit_bytes(memory)
    took_all = took_all or (processes_max is not None and processes > processes_max * HARD_FACTOR)
    if now < truth.kill_due - SLACK_S and truth.closing is None and not took_all:
        world.check(_is_proven_stuck(world, truth, use), f"{name}: killed within its grace")


def _is_proven_stuck(world: World, truth: Truth, use: ProcessorUse) -> bool:
    ack_s, delivered_at = truth.limits["ack_s"], truth.delivered_at
    if ack_s is None or delivered_at is None:
        return False
    for answered_at in (truth.replaced_at, truth.acknowledged_at):
        if answered_at is not None and (truth.dump_at is None or answered_at < truth.dump_at):
            return False  # later is too late: who was sent the dump signal is not to live
    waited, used, main_used, main_runs = (world.now() - delivered_at, *_since(truth.use_at_delivery, use))
    if main_used < world.ack_cpu_s - SLACK_S and main_runs > 2 * LOCK_RUNS:  # by then it had that many at the look
        ack_s *= LOCK_PATIENCE
    return bool(waited >= ack_s - SLACK_S and used >= world.ack_cpu_s - SLACK_S)


def _since(before: ProcessorUse, now: ProcessorUse) -> tuple[float, float, int]:
    assert None not in before and None not in now
    return (
        now.cpu_s - before.cpu_s,
        (now.main_cpu_s or 0.0) - (before.main_cpu_s or 0.0),
        (now.main_runs or 0) - (before.main_runs or 0),
    )


def note_notifications(world: World, truth: Truth, notifications: bytes, use: ProcessorUse) -> None:
    """Note what the supervisor has just read."""
    now = world.now()
    for notification in notifications:
        if notification == NOTIFY_REPLACED:
            truth.replaced_at = now
        if notification == NOTIFY_SWALLOWED:
            truth.swallowed_at = now
        if truth.kill_at is not None or truth.term_at is None:
            continue
        if notification in (SIGTERM, NOTIFY_ACKNOWLEDGED) and truth.delivered_at is None:
            truth.delivered_at, truth.use_at_delivery = now, use
        if notification == NOTIFY_ACKNOWLEDGED and truth.acknowledged_at is None:
            truth.acknowledged_at = now
