"""What `ports.Process` promises to measure, to prove and to keep of a process: on the fake one and on the real one."""

from __future__ import annotations

import pytest
from real_and_fake_stages import on_both_sides
from spawner_stage import Stage, Worker

from killable.supervisor.attempts.escalation import LOCK_RUNS
from killable.supervisor.models import Verdict
from killable.supervisor.ports import Process, ProcessorUse, Sample
from killable.workers.protocol.messages import Kind

pytestmark = pytest.mark.row("PEERS-L")
MIB = 1 << 20
EVERYBODY = 1 << 16


def use_of(worker: Worker) -> ProcessorUse:
    use = worker.process.processor_use()
    assert use is not None and use.main_cpu_s is not None and use.main_runs is not None
    return use


def sample_of(worker: Worker, *, cpu: bool = False, at_most: int = EVERYBODY) -> Sample:
    sample = worker.process.sample(cpu=cpu, at_most=at_most)
    assert sample is not None
    return sample


async def used(stage: Stage, worker: Worker) -> tuple[float, float, int]:
    """Let it compute for a while; return what it has used then: altogether, in its main thread, in so many runs."""
    before = use_of(worker)
    await stage.until(lambda: use_of(worker).cpu_s > before.cpu_s + 0.1, worker, "computes")
    after = use_of(worker)
    return tuple(b - a for a, b in zip(before, after, strict=True))  # type: ignore[operator, return-value]


def nothing_is_measured(process: Process) -> bool:
    assert process.processor_use() is None and process.sample(cpu=True, at_most=EVERYBODY) is None
    assert process.stack() is None and not process.has_whole_stack()
    return True


@on_both_sides()
async def test_a_job_in_python_computes_in_its_main_thread(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 1)
    cpu_s, main_cpu_s, _ = await used(stage, worker)
    assert main_cpu_s > cpu_s / 2


@on_both_sides()
async def test_what_helper_threads_use_is_the_processs_and_not_its_main_threads(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "computes in helpers", 1)
    cpu_s, main_cpu_s, _ = await used(stage, worker)
    assert main_cpu_s < cpu_s / 2


@on_both_sides()
async def test_a_main_thread_that_waits_for_the_interpreter_runs_often_and_computes_nothing(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "waits for its interpreter", 1)
    await stage.wait_until_computing(worker)  # in the thread: before that it hears
    stage.stop(worker, 1)
    before = use_of(worker).main_runs or 0
    await stage.until(lambda: (use_of(worker).main_runs or 0) >= before + LOCK_RUNS, worker, "asks for the lock")
    cpu_s, main_cpu_s, runs = await used(stage, worker)
    assert main_cpu_s < cpu_s / 2 and runs > 0


@on_both_sides()
async def test_one_that_is_not_told_of_is_gone_or_was_abandoned_cannot_be_measured(stage: Stage) -> None:
    worker = stage.fork()
    assert nothing_is_measured(worker.process)
    worker.process.bound(None, None)
    await stage.until(lambda: "forked" in worker.reports.calls, worker, "is told of")
    assert use_of(worker)
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert nothing_is_measured(worker.process) and await worker.process.measured(alone=True) is None
    worker.process.bound(MIB, 1)


@on_both_sides()
async def test_of_one_that_was_abandoned_nothing_is_left_and_idle_it_leaves_by_itself(stage: Stage) -> None:
    worker = await stage.worker()
    worker.process.hold(1)
    worker.process.abandon()
    stage.zygote.workers.remove(worker)
    assert nothing_is_measured(worker.process) and await worker.process.measured(alone=True) is None
    assert not worker.process.kill_now(1, Verdict("cancelled")) and worker.process.killed_for is None
    await stage.until(lambda: not stage.lives(worker), worker, "has left")
    assert sorted(worker.reports.calls) == ["forked", "frames"]


@on_both_sides()
async def test_a_sample_is_of_the_worker_and_of_the_processor_time_if_that_is_asked_for(stage: Stage) -> None:
    worker = await stage.worker()
    idle = sample_of(worker)
    assert idle.own_bytes > 0
    assert idle == Sample(
        idle.own_bytes, cost_s=idle.cost_s, resident_bytes=idle.resident_bytes, newest_pid=idle.newest_pid
    )
    await stage.start_inside(worker, "grows", 1)
    worker.process.bound(1 << 40, EVERYBODY)  # far away
    more = idle.own_bytes + 32 * MIB
    await stage.until(lambda: sample_of(worker, at_most=1).own_bytes > more, worker, "has grown")
    used_s = use_of(worker).cpu_s
    sample = sample_of(worker, cpu=True)
    assert sample.cpu_s >= used_s > 0 and (sample.others_bytes, sample.processes) == (0, 1)


@on_both_sides()
async def test_what_it_held_before_its_order_is_where_it_grows_from(stage: Stage) -> None:
    worker = await stage.worker()
    assert worker.process.base is None
    idle = sample_of(worker, cpu=True)
    worker.process.note_base()
    assert worker.process.base is not None
    await stage.start_inside(worker, "grows", 1)
    more = idle.own_bytes + 32 * MIB
    await stage.until(lambda: sample_of(worker).own_bytes > more, worker, "has grown")
    assert worker.process.base.own_bytes == idle.own_bytes
    assert idle.cpu_s <= worker.process.base.cpu_s < sample_of(worker, cpu=True).cpu_s
    worker.process.note_base()
    assert worker.process.base.own_bytes > more
    worker.process.kill()
    await stage.wait_until_gone(worker)


@on_both_sides()
async def test_who_has_not_run_since_its_base_was_noted_is_not_measured_for_it_again(stage: Stage) -> None:
    worker = await stage.worker()

    def base() -> Sample:
        worker.process.note_base(cpu=False)
        assert worker.process.base is not None
        return worker.process.base

    await stage.until(lambda: base() == base(), worker, "waits for an order")  # the cost of measuring it is in it
    without = base()

    def has_processor_time() -> bool:
        worker.process.note_base()
        assert worker.process.base is not None
        return worker.process.base.cpu_s == sample_of(worker, cpu=True).cpu_s

    await stage.until(has_processor_time, worker, "waits for an order, and its processor time is asked for")
    await stage.start_inside(worker, "grows", 1)
    more = without.own_bytes + 32 * MIB
    await stage.until(lambda: base().own_bytes > more, worker, "has grown")


@on_both_sides()
async def test_a_base_does_not_say_that_it_is_alone_when_it_is_not(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "has a family", 1)
    await stage.until(lambda: sample_of(worker).processes == 3, worker, "has a family")
    worker.process.note_base()
    assert worker.process.base is not None and not worker.process.has_started_none_since(worker.process.base)


@on_both_sides()
async def test_a_sample_counts_what_it_has_started_and_a_proof_only_what_that_holds_alone(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "has a family", 1)
    for at_most, processes in ((1, 1), (2, 2), (3, 3), (EVERYBODY, 3)):
        sample = sample_of(worker, at_most=at_most)
        assert (sample.processes, sample.proven) == (processes, False)
        assert (sample.others_bytes > 0) == (processes > 1)
    told: list[Sample] = []
    worker.process.prove(sample, told.append)
    assert told == [], "later, for it takes time"
    await stage.until(lambda: told, worker, "is proven")
    (exact,) = told
    of_both = {"others_bytes": exact.others_bytes, "shared_bytes": 0, "cost_s": exact.cost_s}
    assert exact == sample._replace(**of_both, proven=True)
    assert 0 < exact.others_bytes < sample.others_bytes, "what they share with it is its own"
    worker.process.kill()
    await stage.wait_until_gone(worker)
    worker.process.prove(sample, told.append)
    other = await stage.worker()
    other.process.prove(Sample(0), told.append)
    await stage.until(lambda: len(told) > 1, other, "is proven")
    assert [each._replace(cost_s=0.0) for each in told[1:]] == [Sample(0, proven=True)], (
        "and nothing of what has ended meanwhile"
    )


@on_both_sides()
async def test_what_it_has_alone_is_measured_if_that_is_asked_for(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "loops", 1)
    await stage.wait_until_computing(worker)
    sample = await worker.process.measured(alone=True)
    assert sample is not None and sample.alone_bytes is not None and sample.cpu_s > 0
    assert sample.resident_bytes > sample.alone_bytes > 0
    without = await worker.process.measured(alone=False)
    assert without is not None and without.alone_bytes is None and without.resident_bytes > 0
    other = await stage.worker()
    await stage.start_inside(other, "has a family", 1)
    family = await other.process.measured(alone=True)
    assert family is not None and family.processes == 3, "all of its tree"


@on_both_sides()
async def test_a_stack_is_whole_when_it_was_dumped_and_goes_with_the_process(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "is stuck", 1)
    assert worker.process.stack() is None and not worker.process.has_whole_stack()
    worker.process.dump(1)
    await stage.until(worker.process.has_whole_stack, worker, "was dumped")
    assert 'File "' in (worker.process.stack() or "")
    worker.process.kill()
    await stage.wait_until_gone(worker)
    assert not worker.process.has_whole_stack()


@on_both_sides()
async def test_when_its_exit_is_told_it_may_be_measured_still_and_holds_nothing(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.start_inside(worker, "is swept late", 1)
    await stage.wait_until_computing(worker)
    seen: list[object] = []

    def look() -> None:
        sample = worker.process.sample(cpu=True, at_most=EVERYBODY)
        seen.extend((worker.process.processor_use(), sample and (sample.own_bytes, sample.cpu_s > 0)))

    worker.reports.at_exit = look
    with stage.reaping_nothing():
        stage.kill_from_outside(worker)
        await stage.until(lambda: "exited" in worker.reports.calls, worker, "has exited")
    assert seen[0] is not None and seen[1] == (0, True)
    await stage.wait_until_gone(worker)
    assert Kind.RAISED not in worker.reports.kinds(1)
