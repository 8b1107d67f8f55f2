"""Every system call of the real implementation of the ports fails once.

Whatever fails: it is survived (done again, done without), or a typed error says so; each job has one end; nothing is
left; the next job runs, or it is said why none does; and a close returns. `-s` shows how many calls each phase has.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_injection import Call, Injector, install
from supervisor_phases import MIDDLE, begin_and_end, belongings, go_through, running_supervisor
from support import cgroup_v2, processes
from support.supervisor_fixture import CGROUP_PROOF
from support.waiting import Pending, until_async

from killable.supervisor.linux import env_marker, zygote_host

PHASES = ("start", *MIDDLE, "shutdown")
WITH_GROUPS = CGROUP_PROOF if cgroup_v2.can_create() else "descendants"
TURNS = 3
"""A place that is called again and again, as for each process there is, is not called differently the fourth time."""


@pytest.fixture
def injector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Injector]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        zygote_host, "ORPHAN_SEARCH_S", 10.0
    )  # a guard that is without a processor for long is waited for
    yield install(monkeypatch)


Round = Callable[[Callable[[], None]], Any]
"""Go once through the phase; the argument aims the injector."""


@asynccontextmanager
async def rounds(phase: str, proof: str, injector: Injector) -> Any:
    """Yield what goes once through a phase: on one supervisor, or on a new one each time if it ends or begins there."""
    if phase in MIDDLE:
        async with running_supervisor(proof) as life:
            await life.works()
            yield lambda aim: go_through(life, injector, phase, aim)
        return
    before = belongings()

    def left() -> Pending | bool:
        more = {thing for thing in belongings() - before if not thing.startswith("thread")}
        return not more or Pending(more)

    async def once(aim: Callable[[], None]) -> None:
        await begin_and_end(proof, injector, phase, aim)
        await until_async(left, "nothing is left")

    yield once


def note(error: BaseException, injector: Injector) -> None:
    error.add_note(f"failed was {injector.failed}, with {injector.failure}")


@pytest.fixture(scope="module")
def failed() -> set[str]:
    """Places whose call has failed while a supervisor lived: not every phase forks workers anew to see it again."""
    return set()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", MIDDLE)  # of a start and a shutdown they are among the first ones below
async def test_the_first_call_of_each_place_fails_once(
    phase: str, injector: Injector, failed: set[str], record_property: Callable[[str, object], None]
) -> None:
    async with rounds(phase, WITH_GROUPS, injector) as once:
        await once(lambda: None)
        calls = injector.calls
        places = [call for call in calls if call.turn == 0 and call.site not in failed]
        missed: list[Call] = []
        for number, call in enumerate(places):
            try:
                await once(lambda call=call, number=number: injector.aim_at(call, number))
            except BaseException as error:
                note(error, injector)
                raise
            if injector.failed is None:
                missed.append(call)
            else:
                failed.add(call.site)
    all_places = len({call.site for call in calls})
    again = [str(call) for call in missed]
    said = f"{phase}: {len(calls)} calls from {all_places} places, of which fail {len(places)}; not made again: {again}"
    print(said)
    record_property("calls", said)
    assert len(missed) <= all_places / 4, said


async def test_a_failure_that_nobody_takes_care_of_is_found(injector: Injector) -> None:
    """The control: one that read(2) of an open pipe cannot have."""
    async with running_supervisor("descendants") as life:
        await life.works()
        await go_through(life, injector, "stream", lambda: None)
        read = next(call for call in injector.calls if call.site.startswith("pipe_io._read_some"))
        with pytest.raises(AssertionError, match="Bad file descriptor"):
            await go_through(life, injector, "stream", lambda: injector.aim_at(read, failure=errno.EBADF))


def test_a_sweep_that_fails_closes_what_it_has_opened(
    injector: Injector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at a next process when it waits for the guard of a dead supervisor."""
    monkeypatch.setattr(env_marker, "GUARD_S", 0.0)
    (tmp_path / "boot.py").write_text("import sys; print(flush=True); sys.stdin.read()")
    marker = f"test-{os.getpid()}/instance/pool/1"
    command = [sys.executable, "-S", "-P", str(tmp_path / "boot.py"), "guard"]
    environment = {**os.environ, env_marker.MARKER: marker}
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **ends) as guard, subprocess.Popen(["cat"], **ends):
        assert guard.stdout is not None and guard.stdout.readline() == b"\n"
        before = processes.open_descriptors()
        injector.begin("sweep")
        injector.aim_behind("let_guards_finish", "_marker_of", errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            env_marker.let_guards_finish(lambda found: found == marker)
        assert [call.site for call in injector.end() if "pidfd_open" in call.site]
        assert processes.open_descriptors() == before


@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "checks"])  # which takes minutes
async def test_the_first_calls_of_each_place_fail_in_one_of_their_ways(phase: str, injector: Injector) -> None:
    """For n = 1, 2, … until a run is clean; the soak below goes through all calls and ways, with both proofs.

    A start and a shutdown with the calls that cgroups need: each is a supervisor of its own.
    """
    number = 0
    async with rounds(phase, "descendants" if phase in MIDDLE else WITH_GROUPS, injector) as once:
        while number == 0 or injector.failed is not None:
            number += 1
            try:
                await once(lambda number=number: injector.aim_at_number(number, number, TURNS))
            except BaseException as error:
                note(error, injector)
                raise
    print(f"{phase}: {number - 1} calls")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", PHASES)
async def test_every_call_fails_once(phase: str, proof: str, injector: Injector) -> None:
    """In each of its ways, for n = 1, 2, … until a run is clean."""
    number, runs = 0, 0
    async with rounds(phase, proof, injector) as once:
        while number == 0 or injector.failed is not None:
            number, way, ways = number + 1, 0, 1
            while way < ways:
                try:
                    await once(lambda number=number, way=way: injector.aim_at_number(number, way))
                except BaseException as error:
                    note(error, injector)
                    raise
                way, ways, runs = way + 1, injector.ways, runs + 1
    print(f"{phase}, {proof}: {number - 1} calls, {runs} runs")
