"""What `ports.Spawner` promises holds for the fake one and for the real one."""

from __future__ import annotations

import errno
import signal

import pytest
from real_and_fake_stages import on_both_sides, started
from spawner_stage import ProcessReports, Stage
from support.waiting import Pending, until_async

from killable.supervisor.ports import ZygoteLost
from killable.workers.protocol.messages import Kind

pytestmark = pytest.mark.row("PEERS-L")


async def lost(stage: Stage) -> None:
    await until_async(lambda: stage.zygote.lost or Pending(stage.zygote.calls), "the loss of the zygote is told")


@on_both_sides(fresh=True)
async def test_a_zygote_dies_and_the_next_one_works(stage: Stage) -> None:
    with pytest.raises(ZygoteLost):
        stage.fork()  # not yet
    await started(stage)
    assert stage.zygote.calls[-2:] == ["type", "preloaded"] and stage.zygote.threads == 1
    assert stage.spawner.zygote_pid is not None
    busy, idle = await stage.worker(), await stage.worker()
    await stage.start_inside(busy, "loops", 1)
    stage.kill_zygote()
    coming = []
    try:
        coming.append(stage.fork())  # it is on its way when the zygote is found dead, or refused
    except ZygoteLost:
        pass
    await lost(stage)
    assert all(stage.zygote.gone_at_loss), "the end of every worker is told before the zygote's"
    for worker in (busy, idle, *coming):
        gone = worker.reports.gone
        assert gone is not None and gone.zygote_lost
        assert gone.ending is None or gone.ending.signal == signal.SIGKILL
    assert busy.reports.calls[-2:] == idle.reports.calls[-2:] == ["exited", "gone"]
    assert stage.zygote.lost == [f"signal {signal.SIGKILL:d}"]
    assert stage.spawner.zygote_pid is None
    with pytest.raises(ZygoteLost):
        stage.fork()
    await started(stage)
    worker = await stage.worker()
    stage.order(worker, "returns", 2)
    await stage.wait_for_frame(worker, Kind.IDLE, 2)
    assert len(stage.zygote.lost) == 1


@on_both_sides(fresh=True)
async def test_a_zygote_that_is_let_go_leaves_and_its_workers_with_it(stage: Stage) -> None:
    await started(stage)
    worker = await stage.worker()
    stage.spawner.stop_zygote()
    with pytest.raises(ZygoteLost):
        stage.fork()
    await lost(stage)
    assert stage.zygote.lost == ["exit code 0"]
    assert worker.reports.calls[-2:] == ["exited", "gone"]
    assert worker.reports.gone is not None and worker.reports.gone.zygote_lost


@on_both_sides(fresh=True)
async def test_a_close_ends_everything_and_tells_of_every_worker(stage: Stage) -> None:
    await started(stage)
    busy, stuck = await stage.worker(), await stage.worker()
    await stage.start_inside(busy, "loops", 1)
    await stage.start_inside(stuck, "is stuck", 2)
    await stage.spawner.close()
    for worker in (busy, stuck):
        assert worker.reports.calls[-2:] == ["exited", "gone"]
    assert stage.zygote.lost == [], "whoever closes needs no telling"
    await stage.spawner.close()


@on_both_sides(fresh=True)
async def test_a_spawner_that_was_never_started_closes(stage: Stage) -> None:
    await stage.spawner.close()
    assert stage.zygote.calls == []


@on_both_sides(fresh=True, broken="preload")
async def test_a_preload_that_fails_is_told_and_then_the_end_of_its_zygote(stage: Stage) -> None:
    stage.spawner.start("fork")
    await lost(stage)
    assert [call for call in stage.zygote.calls if call != "ending"] == ["preload failed", "lost"]
    assert stage.zygote.traceback.startswith("Traceback") and stage.zygote.declaration == ""
    assert stage.zygote.lost == ["exit code 78"]
    with pytest.raises(ZygoteLost):
        stage.fork()


@on_both_sides(fresh=True, broken="fork")
async def test_a_fork_that_fails_is_told_and_nothing_else(stage: Stage) -> None:
    await started(stage)
    assert stage.zygote.threads == 2
    worker = stage.fork()
    await stage.until(lambda: worker.reports.calls == ["fork failed"], worker, "could not be forked")
    assert worker.reports.fork_errno is not None and worker.process.pid is None
    worker.process.kill()
    worker.process.retire()
    assert worker.process.processor_use() is None and worker.process.stack() is None
    await stage.spawner.close()
    assert worker.reports.calls == ["fork failed"]


@on_both_sides(fresh=True, broken="declaration")
async def test_a_declaration_that_cannot_be_is_named(stage: Stage) -> None:
    stage.spawner.start("fork")
    await lost(stage)
    assert "async" in stage.zygote.declaration


@on_both_sides(fresh=True)
async def test_what_is_asked_for_before_the_preload_is_forked_behind_it(stage: Stage) -> None:
    stage.spawner.stop_zygote()  # there is none
    stage.spawner.start("fork")
    assert stage.spawner.zygote_pid is None and stage.zygote.calls == [], "all that happens is told later"
    worker = stage.fork()
    worker.reports.at_fork = lambda: stage.zygote.calls.append("forked")
    await stage.until(lambda: {"forked", "frames"} <= set(worker.reports.calls), worker, "is ready")
    assert stage.zygote.calls.index("preloaded") < stage.zygote.calls.index("forked")
    stage.spawner.stop_zygote()
    stage.spawner.stop_zygote()
    await lost(stage)
    assert len(stage.zygote.lost) == 1 and stage.spawner.zygote_pid is None


@on_both_sides(fresh=True)
async def test_a_close_right_behind_the_start_tells_of_nothing(stage: Stage) -> None:
    stage.spawner.start("fork")
    await stage.spawner.close()
    assert stage.zygote.calls == [] and stage.spawner.zygote_pid is None


@on_both_sides(fresh=True)
async def test_workers_that_are_spawned_run_orders_too(stage: Stage) -> None:
    await started(stage, "spawn")
    assert stage.zygote.threads == 1
    worker = await stage.worker()
    stage.order(worker, "returns", 1)
    await stage.wait_for_frame(worker, Kind.IDLE, 1)
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert worker.reports.ending.signal == signal.SIGKILL


@on_both_sides()
async def test_a_fork_without_descriptors_raises_and_tells_nothing(stage: Stage) -> None:
    with stage.lacking_descriptors():
        reports = ProcessReports()
        with pytest.raises(OSError) as raised:
            stage.spawner.fork("lacking", reports)
    assert raised.value.errno == errno.EMFILE
    await stage.worker()  # a while later
    assert reports.calls == []


@on_both_sides(fresh=True)
async def test_without_its_guard_all_of_it_ends_and_of_descendants_nobody_answers(stage: Stage) -> None:
    await started(stage)
    busy, idle = await stage.worker(), await stage.worker()
    await stage.start_inside(busy, "loops", 1)
    stage.kill_guard()
    await lost(stage)
    assert stage.zygote.lost == ["with its guard: signal 9"] and "ending" in stage.zygote.calls
    await stage.wait_until_gone(
        busy, idle
    )  # one that is dying at that moment has no marker any more by which it could be found
    for worker in (busy, idle):
        gone = worker.reports.gone
        assert gone is not None and (gone.ending, gone.zygote_lost) == (None, True)
        assert gone.proof == worker.process.proof == ("cgroup" if "cgroup" in stage.spawner.proof else "")
    await started(stage)
    worker = await stage.worker()
    assert worker.process.proof == stage.spawner.proof
