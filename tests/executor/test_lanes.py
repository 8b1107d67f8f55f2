"""Lanes: a thread of the program gives idle workers calls itself, at once, and takes back what has not begun."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import linecache
import os
import random
import select
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import executor_tasks
import pytest
from support import processes
from support.executor_lanes import ready_workers, stalled_supervisor_thread, wait_for_lanes
from support.lane_simulation import PLAIN, LaneSimulation
from support.waiting import until

from killable import Executor, JobCancelled, JobError, WorkerCrashed, WorkerExited
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.pending_tasks import PendingTasks
from killable.supervisor.executor.task import Task
from killable.supervisor.linux.call_socket import CallSocket
from killable.supervisor.linux.worker_process import WorkerProcess
from killable.supervisor.models import Outcome, Verdict
from killable.supervisor.pools import lane
from killable.workers.protocol.shared_memory import OwnedDescriptor


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(max_workers=2, spares=2, grace_s=10) as made:
        yield made
        made.kill_workers()  # what a failed test has left may wait for what nobody will do


def test_a_call_begins_while_the_supervisors_thread_does_nothing(executor: Executor, tmp_path: Path) -> None:
    wait_for_lanes(executor, 2)
    with stalled_supervisor_thread(executor):
        future = executor.submit(executor_tasks.clean_up, str(tmp_path / "in"), str(tmp_path / "cleaned"))
        until((tmp_path / "in").exists, "it runs")
        assert future.running()
        future.cancel()
    with pytest.raises(JobCancelled):
        future.result()
    assert (tmp_path / "cleaned").exists()


def test_what_a_worker_uses_is_not_measured_again_when_a_call_has_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the call has taken by then would not count for its limits."""
    seen: list[tuple[CallSocket, str]] = []
    note_base, send = WorkerProcess.note_base, CallSocket.send

    def measured(process: WorkerProcess, *, cpu: bool = True) -> None:
        seen.append((process.line, "measured"))
        note_base(process, cpu=cpu)

    def ordered(line: CallSocket, *message: Any) -> None:
        send(line, *message)
        seen.append((line, "ordered"))

    monkeypatch.setattr(WorkerProcess, "note_base", measured)
    monkeypatch.setattr(CallSocket, "send", ordered)
    with Executor(max_workers=1, memory_bytes=1 << 30) as executor:
        assert executor.submit(executor_tasks.square, 3).result() == 9  # it waits for the worker
        (line,) = (line for line, what in seen if what == "ordered")
        *before, last = [what for each, what in seen if each is line]
        assert "measured" in before and last == "ordered"


def has_reported(line: lane.Lane) -> bool:
    """Return whether the frames of its worker wait to be read."""
    process: Any = line.process
    return bool(select.select([process._frames._descriptor], [], [], 0)[0])


def page_faults(pid: int) -> int:
    """Return how many pages a process has been given that it did not have (minflt of proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def test_the_first_call_of_a_worker_touches_few_pages_for_the_first_time() -> None:
    """After a fork each costs 3 to 10 µs; a worker has run a call of its own before it is ready."""
    with Executor(max_workers=1) as executor:
        (pid,) = wait_for_lanes(executor, 1)
        before = page_faults(pid)
        assert executor.submit(abs, -3).result() == 3
        assert page_faults(pid) - before < 75


@pytest.mark.parametrize(
    ("what", "limits", "code"),
    [("memory", {"memory_bytes": "64MiB"}, "limit.memory"), ("processor time", {"cpu_s": 0.2}, "limit.cpu")],
)
def test_what_a_call_takes_while_the_supervisors_thread_does_nothing_counts(
    what: str, limits: dict[str, Any], code: str, executor: Executor, tmp_path: Path
) -> None:
    wait_for_lanes(executor, 2)
    with stalled_supervisor_thread(executor):
        future = executor.with_limits(**limits, run_s=60).submit(executor_tasks.take, what, str(tmp_path / "taken"))
        until((tmp_path / "taken").exists, "it has taken all that it takes")
    with pytest.raises(JobError) as caught:
        future.result()
    assert caught.value.code == code


def test_a_call_without_a_grace_is_killed_while_the_supervisors_thread_does_nothing(
    executor: Executor, tmp_path: Path
) -> None:
    wait_for_lanes(executor, 2)
    with stalled_supervisor_thread(executor):
        futures = [executor.submit(executor_tasks.hold_the_lock, str(tmp_path / name)) for name in ("first", "second")]
        until(lambda: all(map(os.path.exists, (tmp_path / "first", tmp_path / "second"))), "they run")
        futures[0].cancel(grace_s=0, reason="why not")
        pid = futures[0].pid or 0
        until(lambda: (seen := processes.read_process(pid)) is None or seen.state == "Z", "it is dead")
        assert not futures[0].done()
        futures[1].cancel()
        assert futures[1].running()
        futures[1].cancel(grace_s=0)
    for future in futures:
        with pytest.raises(JobCancelled):
            future.result()
    certificate = futures[0].certificate or {}
    assert (certificate["reason"], certificate["exit_signal"]) == ("why not", "SIGKILL")
    assert certificate["requested"] == 0.0 < certificate["kill_sent"] <= certificate["exited"]


def test_the_exit_of_a_call_that_was_killed_may_be_heard_before_the_word_of_who_did_it(
    executor: Executor, tmp_path: Path
) -> None:
    """Here that word never comes."""
    future = executor.submit(executor_tasks.hold_the_lock, str(tmp_path / "in"))
    until((tmp_path / "in").exists, "it runs")
    with stalled_supervisor_thread(executor):
        executor._tasks._under_way[future].kill_now(Verdict("cancelled", by="user", reason="gone"), 0)
    with pytest.raises(JobCancelled) as caught:
        future.result()
    assert caught.value.facts["reason"] == "gone" and (future.certificate or {})["exit_signal"] == "SIGKILL"


def test_a_job_is_not_given_to_a_worker_that_was_killed_for_a_call_that_had_run_through(
    executor: Executor, tmp_path: Path
) -> None:
    """It looks alive for some milliseconds yet."""
    wait_for_lanes(executor, 2)
    said = [tmp_path / "first", tmp_path / "second"]
    with stalled_supervisor_thread(executor):
        ran_through = [executor.submit(executor_tasks.say, str(path)) for path in said]
        lines = [each for each in executor._tasks._lanes if len(each)]
        until(lambda: len(lines) == 2 and all(map(has_reported, lines)), "they have run through")
        for future in ran_through:  # in its thread: nothing comes between this and the job
            executor._tasks.supervisor_thread.call(partial(future.cancel, grace_s=0))
        innocent = executor.with_limits(queue_s=60).submit(executor_tasks.square, 3)
    assert innocent.result() == 9
    assert [future.result() for future in ran_through] == [None, None]


def test_a_kill_of_a_call_that_is_being_lined_up_hits_no_other_call(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A finalizer or a signal handler of the program cancels in the middle of it."""
    wait_for_lanes(executor, 2)
    message = Task.message

    def cancelled_before(task: Task, *arguments: Any) -> Any:
        monkeypatch.setattr(Task, "message", message)
        task.future.cancel(grace_s=0)
        return message(task, *arguments)

    monkeypatch.setattr(Task, "message", cancelled_before)
    unwanted = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
    innocents = [executor.submit(executor_tasks.square, number) for number in range(9)]
    assert [future.result() for future in innocents] == [number**2 for number in range(9)]
    with pytest.raises(JobCancelled):
        unwanted.result()


def test_calls_behind_one_that_is_killed_run_elsewhere(executor: Executor, tmp_path: Path) -> None:
    """They had been lined up behind it, because those before were short."""
    wait_for_lanes(executor, 2)
    assert list(executor.map(executor_tasks.square, range(200))) == [number**2 for number in range(200)]
    wait_for_lanes(executor, 2)
    with stalled_supervisor_thread(executor):
        stuck = [executor.submit(executor_tasks.hold_the_lock, str(tmp_path / name)) for name in ("first", "second")]
        until(lambda: all(map(os.path.exists, (tmp_path / "first", tmp_path / "second"))), "they run")
        behind = [executor.submit(executor_tasks.square, number) for number in range(40)]
        assert sum(len(lane) for lane in executor._tasks._lanes) > 2, "some are lined up"
        assert not any(future.running() for future in behind)
        assert behind[3].cancel() and behind[3].cancelled()
        for future in stuck:
            future.cancel(grace_s=0)
    for future in stuck:
        with pytest.raises(JobCancelled):
            future.result()
    assert [future.result() for future in behind if future is not behind[3]] == [n**2 for n in range(40) if n != 3]


def test_who_holds_the_conditions_of_futures_delays_no_other_call(executor: Executor, tmp_path: Path) -> None:
    """A thread in `concurrent.futures.wait` does, and a finalizer or a signal handler may cancel a call there."""
    tasks = executor._tasks
    wait_for_lanes(executor, 2)
    assert list(executor.map(executor_tasks.square, range(200))) == [number**2 for number in range(200)]
    wait_for_lanes(executor, 2)
    with concurrent.futures.ThreadPoolExecutor(1) as another_thread, contextlib.ExitStack() as waited_for:
        with stalled_supervisor_thread(executor):
            held = [tmp_path / "first", tmp_path / "second"]
            stuck = [executor.submit(executor_tasks.hold_the_lock, str(path)) for path in held]
            until(lambda: all(map(os.path.exists, held)), "they run")
            behind = [executor.submit(executor_tasks.square, number) for number in range(40)]
            assert sum(len(lane) for lane in tasks._lanes) > 2, "some are lined up"
            for future in (*stuck, *behind):
                waited_for.enter_context(future._condition)
            cancels = [another_thread.submit(future.cancel, grace_s=0) for future in stuck]
            assert all(cancel.result(timeout=5) for cancel in cancels), "what stands behind is put back"
            with tasks.lock:  # as in a finalizer that runs where it is held
                assert not tasks.withdraw(behind[3], ""), "else its condition would be taken here"
            assert behind[3].cancel()
        until(lambda: all(future._state == "RUNNING" for future in stuck), "they are jobs", timeout_s=5)
        assert tasks.lock.acquire(timeout=5)
        tasks.lock.release()
        waited_for.close()
    for future in (*stuck, behind[3]):
        with pytest.raises(JobCancelled):
            future.result()
    assert [future.result() for future in behind if future is not behind[3]] == [n**2 for n in range(40) if n != 3]


def test_a_worker_without_a_call_takes_those_behind_a_long_one(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait_for_lanes(executor, 2)
    assert list(executor.map(executor_tasks.square, range(200))) == [number**2 for number in range(200)]
    wait_for_lanes(executor, 2)
    long = executor.submit(executor_tasks.wait_for, str(gate))
    until(long.running, "it runs")
    short = [executor.submit(executor_tasks.square, number) for number in range(40)]
    assert [future.result(60) for future in short] == [number**2 for number in range(40)]
    assert not long.done()
    executor_tasks.say(str(gate))
    assert long.result() == str(os.getpid())


def test_all_that_is_killed_at_once_was_cancelled(tmp_path: Path) -> None:
    """Exits are heard before the words of those who killed, which stand behind hundreds of others."""
    with Executor(max_workers=4) as executor:
        running = [executor.submit(executor_tasks.loop, str(tmp_path / f"in {number}")) for number in range(4)]
        until(lambda: all((tmp_path / f"in {number}").exists() for number in range(4)), "they run")
        waiting = [executor.submit(executor_tasks.square, number) for number in range(500)]
        executor.kill_workers()
    assert {type(future.error) for future in running + waiting} == {JobCancelled}


@contextmanager
def nothing_collected() -> Iterator[None]:
    """No collection of cyclic garbage happens in here, and so none of the finalizers of what earlier tests left."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def interrupted_at(line: int) -> Iterator[None]:
    """Raise KeyboardInterrupt at this line, counted from 1, of what this thread runs of ours.

    Not at a `try:` and not where a `with` ends: no signal is handled there. Nor in a finalizer: nobody hears of that.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal lines
        if (
            not frame.f_globals.get("__name__", "").startswith("killable.")
            or frame.f_code is OwnedDescriptor.close.__code__
        ):
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith(("with ", "try:")):
            lines += 1
            if lines == line:
                raise KeyboardInterrupt
        return trace

    with nothing_collected():
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


def test_an_interrupt_anywhere_in_submit_costs_no_worker_and_no_call() -> None:
    interrupts = 0
    with Executor(max_workers=1) as executor:
        other = executor.submit(executor_tasks.square, 3)
        for line in itertools.count(1):
            wait_for_lanes(executor, 1)
            try:
                with interrupted_at(line):
                    executor.submit(executor_tasks.square, 4)
            except KeyboardInterrupt:
                interrupts += 1
            else:
                break
            assert executor.submit(executor_tasks.square, line).result(60) == line**2
        assert other.result() == 9
    assert interrupts > 50


def test_an_interrupt_of_one_thread_costs_the_call_of_another_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever submits lines up those that wait before it, too."""
    with Executor(max_workers=1, spares=1) as executor:
        for line in itertools.count(1):
            wait_for_lanes(executor, 1)
            with monkeypatch.context() as patched:
                patched.setattr(PendingTasks, "_match", lambda self: None)
                other = executor.submit(executor_tasks.square, line)
            try:
                with interrupted_at(line):
                    executor.submit(executor_tasks.square, 4)
            except KeyboardInterrupt:
                executor._tasks.on_room()  # as the thread of the other one goes on
                assert other.result(60) == line**2
            else:
                break
    assert line > 50


def test_why_a_waiting_call_was_cancelled_is_not_lost_to_a_word_that_comes_later(executor: Executor) -> None:
    """Its time ran, so it was a job by then, and that was found to be cancelled without being told why."""
    gates = [executor.submit(time.sleep, 3600) for _ in range(2)]
    future = executor.with_limits(queue_s=60).submit(executor_tasks.square, 2)
    with stalled_supervisor_thread(executor):
        future.cancel(reason="too many")
        future.finish(Outcome("cancelled", "cancelled", facts={"by": "user", "reason": ""}))
    with pytest.raises(JobCancelled) as caught:
        future.result()
    assert (caught.value.reason, (future.certificate or {})["reason"]) == ("too many", "too many")
    for gate in gates:
        gate.cancel(grace_s=0)


def test_an_interrupted_cancel_is_a_cancel(executor: Executor, tmp_path: Path) -> None:
    gates = [executor.submit(executor_tasks.wait_for, str(tmp_path / "gate")) for _ in range(2)]
    until(lambda: all(gate.running() for gate in gates), "both run: the interrupt is to hit neither of their orders")
    for line in itertools.count(1):
        future = executor.submit(executor_tasks.square, 2)
        try:
            with interrupted_at(line):
                future.cancel()
        except KeyboardInterrupt:
            future.cancel()
        else:
            break
        with pytest.raises(JobCancelled):
            future.result(60)
    assert line > 10
    executor_tasks.say(str(tmp_path / "gate"))
    concurrent.futures.wait(gates)


def test_calls_go_on_when_their_zygote_is_given_up(tmp_path: Path) -> None:
    """Those that it had are lost with it; in the middle of that, those that wait want workers."""
    with Executor(max_workers=3, spares=1) as executor:
        assert sum(executor.map(executor_tasks.square, range(3))) == 5
        running = [executor.submit(executor_tasks.loop, str(tmp_path / f"in {number}")) for number in range(3)]
        until(lambda: all((tmp_path / f"in {number}").exists() for number in range(3)), "they run")
        waiting = [executor.submit(executor_tasks.square, number) for number in range(4)]
        (pool,) = executor._tasks.supervisor.jobs.fleet
        executor._tasks.supervisor_thread.call(lambda: pool._spawner._zygote_host._end_zygote())  # type: ignore[attr-defined]
        assert [future.result() for future in waiting] == [0, 1, 4, 9]
        for future in running:
            with pytest.raises(WorkerCrashed):
                future.result()


def test_a_future_that_is_dropped_is_freed_at_once(executor: Executor) -> None:
    wait_for_lanes(executor, 2)
    with nothing_collected():
        future = executor.submit(executor_tasks.square, 2)
        assert future.result() == 4
        held = weakref.ref(future)
        del future
        until(lambda: held() is None, "it is freed")


def test_no_more_calls_run_than_there_are_workers(executor: Executor, tmp_path: Path) -> None:
    wait_for_lanes(executor, 2)
    gates = [str(tmp_path / f"gate {number}") for number in range(4)]
    with stalled_supervisor_thread(executor):
        futures = [executor.submit(executor_tasks.wait_for, gate) for gate in gates]
        until(lambda: [future.running() for future in futures] == [True, True, False, False], "two run")
    for gate, future in zip(gates, futures, strict=True):
        executor_tasks.say(gate)
        assert future.result() == str(os.getpid())
    wait_for_lanes(executor, 2)


def test_a_leased_worker_that_dies_takes_no_call_with_it(executor: Executor) -> None:
    """Nobody has seen it die: that its order cannot be written any more is the first sign."""
    pids = wait_for_lanes(executor, 2)
    with stalled_supervisor_thread(executor):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            until(processes.has_ended(pid), "it is dead")
        futures = [executor.submit(executor_tasks.square, number) for number in range(4)]
    assert [future.result() for future in futures] == [0, 1, 4, 9]
    assert executor.submit(executor_tasks.square, 5).result() == 25


def test_a_call_that_its_pool_has_not_heard_of_has_a_spare_in_its_place(tmp_path: Path) -> None:
    """One worker is there at first, and none comes later, but for the word that this one is busy."""
    gate = str(tmp_path / "gate")
    with Executor(max_workers=2, spares=1) as executor:
        (first,) = wait_for_lanes(executor, 1)
        future = executor.submit(executor_tasks.wait_for, gate)
        assert future.pid == first
        (second,) = wait_for_lanes(executor, 1)
        assert second != first
        executor_tasks.say(gate)
        assert future.result() == str(os.getpid())


@pytest.mark.parametrize("spares", [0, 1, 2])
def test_as_many_calls_run_at_once_as_there_are_workers(spares: int, tmp_path: Path) -> None:
    """Whether its pool has heard of each or not, and whoever of them ends."""
    with Executor(max_workers=3, spares=spares) as executor:
        for again in range(3):
            futures: list[JobFuture[str]] = []
            for number in range(3):
                futures.append(executor.submit(executor_tasks.wait_for, str(tmp_path / f"gate {again} {number}")))
                until(futures[-1].running, "it runs beside the others")
            futures[again].cancel(grace_s=0)
            concurrent.futures.wait([futures[again]])
            assert executor.submit(executor_tasks.square, 3).result() == 9
            for number in range(3):
                executor_tasks.say(str(tmp_path / f"gate {again} {number}"))
            concurrent.futures.wait(futures)


def test_calls_begin_in_their_order_whatever_limits_they_have(tmp_path: Path) -> None:
    """Also one whose time runs while it waits, which waits as a job."""
    gate, said = str(tmp_path / "gate"), tmp_path / "said"
    with Executor(max_workers=1) as executor:
        views = [executor, executor, executor.with_limits(queue_s=60), executor.with_limits(run_s=60)]
        first = executor.submit(executor_tasks.wait_for, gate)
        futures = [views[number % 4].submit(executor_tasks.write_down, str(said), number) for number in range(16)]
        assert not any(future.running() for future in futures)
        for number in (5, 6):  # one of which is a job
            assert futures[number].cancel() and futures[number].cancelled()
        executor_tasks.say(gate)
        for future in futures:
            assert future.cancelled() or future.result() is None
        assert first.done()
    assert said.read_text().split() == [str(number) for number in range(16) if number not in (5, 6)]


def test_calls_that_wait_end_when_no_worker_will_come(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with Executor(max_workers=1, spares=0, initializer=executor_tasks.fail_if_there, initargs=(gone,)) as executor:
        running = executor.submit(executor_tasks.end_when, str(tmp_path / "go"))
        until(running.running, "it runs")
        waiting = [executor.submit(executor_tasks.square, number) for number in range(3)]
        executor_tasks.say(gone)
        executor_tasks.say(str(tmp_path / "go"))
        with pytest.raises(WorkerExited):
            running.result()
        for future in waiting:
            with pytest.raises(WorkerCrashed, match="it is there") as caught:
                future.result()
            assert caught.value.code == "spawn"
        with pytest.raises(WorkerCrashed):
            executor.submit(executor_tasks.square, 3).result()


def test_a_call_that_ran_through_is_certified_as_one_that_was_watched(tmp_path: Path) -> None:
    with Executor(max_workers=1, spares=1) as executor:
        first = executor.submit(executor_tasks.wait_for, str(tmp_path / "go"))  # no spare is made for what ends at once
        pid = until(lambda: first.pid, "it runs")
        until(lambda: ready_workers(executor) - {pid}, "there is a spare")
        executor_tasks.say(str(tmp_path / "go"))
        first.result()
        until(
            lambda: [lane for lane in executor._tasks._lanes if lane.quiet],
            "there is a spare beside it",
        )
        plain = executor.submit(executor_tasks.square, 3)
        assert plain.result() == 9
        watched = executor.with_limits(run_s=60).submit(executor_tasks.square, 3)
        assert watched.result() == 9
    found, expected = dict(plain.certificate or {}), dict(watched.certificate or {})
    assert 0.0 == found.pop("slot_ready") < expected.pop("slot_ready"), (found, expected)
    assert found == expected


def test_what_a_call_prints_is_its_own(executor: Executor) -> None:
    """The calls before it and behind it in its worker ran through without a word."""
    wait_for_lanes(executor, 2)
    futures = [executor.submit(print, number) if number % 3 == 1 else executor.submit(abs, 1) for number in range(60)]
    concurrent.futures.wait(futures)
    assert [future.stdout for future in futures] == [f"{n}\n" if n % 3 == 1 else "" for n in range(60)]


def test_an_executor_that_is_left_at_once(tmp_path: Path) -> None:
    with Executor(max_workers=2, spares=2) as executor:
        wait_for_lanes(executor, 2)
    with Executor(max_workers=2, spares=2) as executor:
        wait_for_lanes(executor, 2)
        future = executor.submit(executor_tasks.square, 3)
    assert future.result(timeout=0) == 9


CHOICES_OF_LIMITS: list[dict[str, float]] = [{}, {}, {}, {"run_s": 60}, {"queue_s": 60}]
"""None of them is reached: they say how a call gets to its worker."""


def test_many_threads_cancel_crash_and_compute_beside_each_other(tmp_path: Path) -> None:
    """Each call ends once, as it should; and there are never more at once than workers."""
    slots = [tmp_path / f"slot {number}" for number in range(3)]
    for slot in slots:
        slot.touch()
    seed = random.randrange(1 << 30)

    def ask(executor: Executor, thread: int) -> list[str]:
        chance = random.Random(seed + thread)
        wrong = []
        for number in range(60):
            kind = chance.choice(["compute", "compute", "compute", "stop", "kill", "crash", "print", "raise"])
            argument = thread * 1000 + number
            view = executor.with_limits(**chance.choice(CHOICES_OF_LIMITS))
            if kind == "crash":
                ended = type(view.submit(executor_tasks.end_badly, "exit 3").exception()).__name__
                expected = {"WorkerExited"}
            elif kind == "print":
                printed = view.submit(print, argument)
                ended, expected = f"{printed.result()} {printed.stdout}", {f"None {argument}\n"}
            elif kind == "raise":
                ended = repr(view.submit(executor_tasks.raise_value_error, str(argument)).exception())
                expected = {repr(ValueError(str(argument)))}
            else:
                future = view.submit(executor_tasks.alone_in, [str(slot) for slot in slots], argument)
                if kind != "compute":
                    future.cancel(grace_s=0 if kind == "kill" else None)
                concurrent.futures.wait([future])
                ended = "JobCancelled" if future.cancelled() else repr(future.result())
                expected = {repr(argument)} if kind == "compute" else {repr(argument), "JobCancelled"}
            if ended not in expected:
                wrong.append(f"{kind} {argument}: {ended}")
        return wrong

    print("seed", seed)
    with Executor(max_workers=3) as executor, concurrent.futures.ThreadPoolExecutor(6) as threads:
        wrong = [each for found in threads.map(lambda thread: ask(executor, thread), range(6)) for each in found]
    assert wrong == []


def test_one_call_after_the_other_is_sent_without_new_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a system call in the caller's thread, which may cost it the interpreter for 5 ms."""
    readings: list[str] = []
    simulation = LaneSimulation(1, 1)
    worker = simulation.workers[0]
    monkeypatch.setattr(worker.process, "note_before", lambda: readings.append("before"))
    now = itertools.count(lane.monotonic())
    monkeypatch.setattr(lane, "monotonic", lambda: next(now) / 100)
    for number in range(20):
        future: JobFuture[str] = JobFuture(simulation.queue)
        simulation.kinds[f"{simulation.queue._prefix}-{number + 1}"] = "plain"
        simulation.queue.submit("call", (abs, (number,), {}), PLAIN, future)
        while simulation.work():
            pass
        simulation.read_frames()
        assert future.result() == future.job_id
    assert len(readings) <= 1
    simulation.close()
