"""What the supervisor must never do to a process: looked at where it happens, by the fake process.

Runs in: the test process.
"""

from __future__ import annotations

from support.fake_world import SIGTERM, SLACK_S, Truth, World

from killable.supervisor.escalation import RING_AGAIN_S
from killable.workers.limits import backstop_bytes
from killable.workers.messages import BELL_ACKNOWLEDGED, BELL_REPLACED, BELL_SWALLOWED


def note_term(world: World, truth: Truth) -> None:
    """SIGTERM is only a doorbell: without an order it means nothing, and it does not ring again before it may."""
    now = world.now()
    again = truth.term_at if truth.stop_ordered else truth.expired_at
    if again is not None:
        world.check(now >= truth.swallowed_at + RING_AGAIN_S - SLACK_S, f"job {truth.number} is rung again too soon")
    if not truth.stop_ordered:
        world.check(truth.expire_ordered > 0, f"job {truth.number}: a bell without an order")
        truth.expired_at = now
    elif truth.term_at is None:
        truth.term_at = now
        truth.kill_due = min(truth.kill_due, now + truth.grace_s)


def check_kill(world: World, truth: Truth, cpu_s: float, held_bytes: int) -> None:
    """SIGKILL comes at the end of the grace and not before, except to one that is proven stuck, or takes all memory."""
    now, name = world.now(), f"job {truth.number}"
    if truth.term_at is None or truth.exited_at is not None or truth.nonsense:
        return
    world.check(now <= truth.kill_latest, f"{name}: SIGKILL comes too late")
    memory = truth.limits["memory_bytes"]
    took_all = memory is not None and held_bytes > backstop_bytes(memory)
    if now < truth.kill_due - SLACK_S and truth.closing is None and not took_all:
        world.check(_is_proven_stuck(world, truth, cpu_s), f"{name}: killed within its grace")


def _is_proven_stuck(world: World, truth: Truth, cpu_s: float) -> bool:
    ack_s, delivered_at = truth.limits["ack_s"], truth.delivered_at
    if ack_s is None or delivered_at is None or truth.replaced_at:
        return False
    if truth.acknowledged_at is not None and (truth.dump_at is None or truth.acknowledged_at < truth.dump_at):
        return False  # later is too late: who was sent the dump signal is not to live
    used = cpu_s - truth.cpu_at_delivery
    return bool(world.now() - delivered_at >= ack_s - SLACK_S and used >= world.ack_cpu_s - SLACK_S)


def note_bells(world: World, truth: Truth, bells: bytes, cpu_s: float) -> None:
    """Note what the supervisor has just read."""
    now = world.now()
    for bell in bells:
        if bell == BELL_REPLACED:
            truth.replaced_at = now
        if bell == BELL_SWALLOWED:
            truth.swallowed_at = now
        if truth.kill_at is not None or truth.term_at is None:
            continue
        if bell in (SIGTERM, BELL_ACKNOWLEDGED) and truth.delivered_at is None:
            truth.delivered_at, truth.cpu_at_delivery = now, cpu_s
        if bell == BELL_ACKNOWLEDGED and truth.acknowledged_at is None:
            truth.acknowledged_at = now
