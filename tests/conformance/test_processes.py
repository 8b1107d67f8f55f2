"""What `ports.Process` promises holds for the fake process and for the real one."""

from __future__ import annotations

import asyncio
import signal

import pytest
from real_and_fake_stages import on_both_sides
from spawner_stage import Stage
from support.waiting import Pending

from killable.supervisor.models import Verdict
from killable.supervisor.ports import FenceError
from killable.workers.protocol.messages import NOTIFY_ACKNOWLEDGED, NOTIFY_REPLACED, Idle, Kind

pytestmark = pytest.mark.row("PEERS-L")
TERM = bytes([signal.SIGTERM])
WHY = Verdict("cancelled")


@on_both_sides()
async def test_a_worker_is_forked_and_says_that_it_is_ready(stage: Stage) -> None:
    worker = stage.fork()
    process, reports = worker.process, worker.reports
    assert process.pid is None and reports.calls == [], "all that happens is told later"
    assert process.proof == stage.spawner.proof
    assert process.processor_use() is None and process.stack() is None
    await stage.until(lambda: {"forked", "frames"} <= set(reports.calls), worker, "is ready")
    assert reports.pid == process.pid is not None
    assert [(frame.kind, frame.fence) for frame in reports.frames] == [(Kind.READY, 0)]
    assert sorted(reports.calls) == ["forked", "frames"]


@on_both_sides()
async def test_an_order_is_run_and_the_next_one_too(stage: Stage) -> None:
    worker = await stage.worker()
    for fence in (3, 4):
        stage.order(worker, "returns", fence)
        await stage.wait_for_frame(worker, Kind.IDLE, fence)
        kinds = worker.reports.kinds(fence)
        assert (kinds[0], kinds[-2:]) == (Kind.ENTERED, [Kind.RESULT, Kind.IDLE])
        idle = Idle.decode(worker.reports.frames[-1].payload)
        assert idle.reusable and not idle.why
        worker.process.hold(None)
    assert "exited" not in worker.reports.calls


@on_both_sides()
async def test_a_stop_is_delivered_acknowledged_and_obeyed(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 5)
    stage.stop(worker, 5)
    await stage.wait_for_frame(worker, Kind.IDLE, 5)
    worker.process.read_ready()
    assert worker.reports.notifications == TERM + bytes([NOTIFY_ACKNOWLEDGED])
    assert worker.reports.raised(5).cause == "stopped"
    stack = worker.reports.stack_at_exit if "exited" in worker.reports.calls else worker.process.stack()
    assert 'File "' in (stack or ""), "where it was when it heard"


@on_both_sides()
async def test_sigterm_without_an_order_that_names_the_attempt_ends_nothing(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 7)
    worker.process.terminate(7)
    await stage.until(lambda: worker.reports.notifications == TERM, worker, "was rung")
    stage.stop(worker, 7, named=6)
    await stage.until(lambda: worker.reports.notifications == TERM + TERM, worker, "was rung again")
    assert Kind.RAISED not in worker.reports.kinds(7)
    stage.stop(worker, 7)  # the control
    await stage.wait_for_frame(worker, Kind.RAISED, 7)
    assert worker.reports.notifications == TERM * 3 + bytes([NOTIFY_ACKNOWLEDGED])


@on_both_sides()
async def test_an_idle_worker_ignores_sigterm(stage: Stage) -> None:
    worker = await stage.worker()
    worker.process.hold(1)
    worker.process.terminate(1)
    await stage.until(lambda: worker.reports.notifications == TERM, worker, "was rung")
    stage.order(worker, "returns", 2)
    await stage.wait_for_frame(worker, Kind.IDLE, 2)
    assert worker.reports.notifications == TERM


@on_both_sides()
async def test_native_code_is_delivered_to_and_does_not_hear(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "is stuck", 8)
    await stage.wait_until_computing(worker)
    stage.stop(worker, 8)
    await stage.until(lambda: worker.reports.notifications == TERM, worker, "was rung")
    await stage.wait_until_computing(worker)
    assert worker.reports.notifications == TERM and worker.process.stack() is None
    worker.process.dump(8)
    await stage.until(lambda: 'File "' in (worker.process.stack() or ""), worker, "was dumped")
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert worker.reports.ending.signal == signal.SIGKILL and worker.process.stack() is None


@on_both_sides()
async def test_a_stopped_worker_is_continued_to_hear(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "stops itself", 9)
    await stage.wait_until_stopped(worker)
    stage.stop(worker, 9)
    await stage.until(lambda: NOTIFY_ACKNOWLEDGED in worker.reports.notifications, worker, "has heard")


@on_both_sides()
async def test_a_handler_of_the_jobs_own_is_told_and_hears_instead(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "replaces the handler", 10)
    await stage.until(lambda: NOTIFY_REPLACED in worker.reports.notifications, worker, "has told of its handler")
    stage.stop(worker, 10)
    await stage.until(lambda: len(worker.reports.kinds(10)) > 2 or worker.reports.gone is not None, worker, "has ended")
    assert NOTIFY_ACKNOWLEDGED not in worker.reports.notifications


@on_both_sides()
async def test_a_kill_is_told_as_an_exit_and_then_as_an_end(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 11)
    worker.process.kill()
    assert "exited" not in worker.reports.calls
    await stage.wait_until_gone(worker)
    assert (
        worker.reports.calls.count("exited") == 1
        and worker.reports.calls.index("exited") < len(worker.reports.calls) - 1
    )
    gone, ending = worker.reports.gone, worker.reports.ending
    assert gone is not None and (gone.zygote_lost, gone.torn_bytes) == (False, 0)
    assert gone.proof == worker.process.proof == stage.spawner.proof
    assert (ending.signal, ending.exit_code) == (signal.SIGKILL, None)


@on_both_sides()
async def test_another_thread_kills_only_the_attempt_that_it_names(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 21)
    assert not worker.process.kill_now(20, WHY)
    worker.process.dump(21)
    await stage.until(worker.process.has_whole_stack, worker, "was dumped, for it goes on")
    assert worker.process.killed_for is None
    assert worker.process.kill_now(21, WHY) and worker.process.killed_for is WHY
    assert not worker.process.release(), "another attempt must not be given to it"
    await stage.wait_until_gone(worker)
    assert worker.reports.ending.signal == signal.SIGKILL
    assert not worker.process.kill_now(21, WHY)


@on_both_sides()
async def test_one_that_was_let_go_is_killed_by_no_other_thread(stage: Stage) -> None:
    worker = await stage.worker()
    worker.process.hold(22)
    assert worker.process.release() and not worker.process.kill_now(22, WHY)
    with pytest.raises(FenceError):
        worker.process.terminate(22)


@on_both_sides()
async def test_a_kill_may_come_before_the_fork_is_told(stage: Stage) -> None:
    worker = stage.fork()
    worker.process.kill()
    await stage.wait_until_gone(worker)
    *told, last = [call for call in worker.reports.calls if call != "frames"]
    # An exit that is known when the fork is told comes first, so that nobody takes it for alive.
    assert (sorted(told), last) == (["exited", "forked"], "gone")
    assert worker.reports.ending.signal == signal.SIGKILL


@pytest.mark.row("D8")
@on_both_sides()
async def test_a_signal_for_an_attempt_that_the_worker_does_not_hold_is_refused(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 13)
    for held, meant in ((13, 12), (None, 13), (14, 13)):
        worker.process.hold(held)
        for send in (worker.process.terminate, worker.process.dump):
            with pytest.raises(FenceError):
                send(meant)
    worker.process.hold(13)
    stage.stop(worker, 13)  # the control
    await stage.wait_for_frame(worker, Kind.RAISED, 13)
    assert worker.reports.notifications.count(TERM) == 1, "the refused ones rang nothing"


@on_both_sides()
async def test_whatever_is_asked_of_one_that_is_gone_is_harmless(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 15)
    stage.kill_from_outside(worker)
    await stage.wait_until_gone(worker)
    calls = list(worker.reports.calls)
    process = worker.process
    stage.stop(worker, 15)
    process.dump(15)
    process.kill()
    process.retire()
    process.read_ready()
    process.abandon()
    process.hold(None)
    assert process.processor_use() is None and process.stack() is None
    assert await process.measured(alone=True) is None
    await stage.worker()  # a while later
    assert worker.reports.calls == calls


@on_both_sides()
async def test_an_order_to_one_that_has_just_died_is_harmless(stage: Stage) -> None:
    worker = await stage.worker()
    stage.kill_from_outside(worker)
    stage.order(worker, "returns", 16)
    await stage.wait_until_gone(worker)
    assert worker.reports.kinds(16) == []


@on_both_sides()
async def test_an_idle_worker_that_retires_leaves(stage: Stage) -> None:
    worker = await stage.worker()
    worker.process.retire()
    await stage.wait_until_gone(worker)
    assert (worker.reports.ending.exit_code, worker.reports.ending.signal) == (0, None)
    assert worker.reports.calls.count("exited") == 1 and worker.reports.notifications == b""


@on_both_sides()
async def test_a_busy_worker_that_retires_ends_its_job_first(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "returns", 17)
    worker.process.retire()
    await stage.wait_until_gone(worker)
    assert worker.reports.kinds(17)[-2:] == [Kind.RESULT, Kind.IDLE]
    assert worker.reports.ending.exit_code == 0


@on_both_sides()
async def test_what_was_said_before_the_end_is_told_before_it(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "says much and exits", 18)
    await stage.wait_until_gone(worker)
    assert worker.reports.kinds(18) == [Kind.ENTERED, *[Kind.TOKEN] * 200]
    assert worker.reports.output.count(b"\n") >= 3
    assert (worker.reports.ending.exit_code, worker.reports.ending.signal) == (3, None)


@on_both_sides()
async def test_what_is_there_can_be_read_at_once(stage: Stage) -> None:
    """The report of an acknowledgement and of the closing frame go by two pipes, and neither waits for the other."""
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 19)
    stage.stop(worker, 19)
    await stage.wait_for_frame(worker, Kind.IDLE, 19)
    worker.process.read_ready()
    assert NOTIFY_ACKNOWLEDGED in worker.reports.notifications


@on_both_sides()
async def test_a_crash_has_its_signal(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "crashes", 20)
    await stage.wait_until_gone(worker)
    assert (worker.reports.ending.signal, worker.reports.ending.exit_code) == (signal.SIGSEGV, None)


@on_both_sides()
async def test_what_a_job_leaves_is_swept_and_counted(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "leaves a family", 21)
    await stage.wait_until_gone(worker)
    assert worker.reports.gone is not None and worker.reports.gone.swept >= 1


@on_both_sides()
async def test_half_a_frame_is_told_with_the_end(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "leaves half a frame", 22)
    await stage.wait_until_gone(worker)
    assert worker.reports.gone is not None and worker.reports.gone.torn_bytes > 0
    assert worker.reports.ending.exit_code == 0 and worker.reports.protocol_error == ""


@on_both_sides()
async def test_nonsense_is_told_once_behind_what_made_sense(stage: Stage) -> None:
    worker = await stage.worker()
    stage.order(worker, "talks nonsense", 23)
    await stage.until(lambda: worker.reports.protocol_error != "", worker, "has talked nonsense")
    assert worker.reports.kinds(23) == [Kind.ENTERED, Kind.TOKEN]
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert worker.reports.calls.count("protocol error") == 1


@on_both_sides()
async def test_one_that_could_not_join_its_group_is_proven_by_its_descendants(stage: Stage) -> None:
    worker = await stage.worker()
    worker.process.without_cgroup()
    assert worker.process.proof == "descendants"
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert worker.reports.gone is not None and worker.reports.gone.proof == "descendants"


@on_both_sides()
async def test_of_one_that_was_abandoned_nothing_is_told(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 24)
    worker.process.kill()
    worker.process.abandon()
    calls = list(worker.reports.calls)
    other = await stage.worker()
    other.process.kill()
    await stage.wait_until_gone(other)
    await asyncio.sleep(0)
    assert worker.reports.calls == calls or Pending(worker.reports.calls)
    stage.zygote.workers.remove(worker)
