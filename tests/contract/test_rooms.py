"""What each room may touch: processes and signals in the seam only, a clock in one file, foreign packages in three."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract.source import source, sources

PURE = [f"supervisor/{name}.py" for name in ("escalation", "lifecycle", "backlog", "scheduler", "exits", "watch")]
PROCESSES = ("launch", "forks", "lineage", "watchdog", "spawner", "process", "pipes", "channel", "tree")
BELONGINGS = ("accounts", "cgroup", "memory", "owners", "cookies", "leftovers", "system")
SEAM = {f"supervisor/machine/{name}.py" for name in PROCESSES + BELONGINGS}
"""The only files of the supervisor that touch processes, signals, cgroups and pipes."""
SYSTEM = {"os", "signal", "socket", "subprocess", "select", "fcntl", "psutil", "resource", "ctypes"}
USERS_SIDE = {"workers/pydantics.py", *(f"workers/builtin/{name}.py" for name in ("embed", "generate", "tokenize"))}
"""May use what the user's interpreter has, inside functions: nothing else needs it."""
EXECUTORS_SIDE = {"workers/pickles.py", "workers/calls.py", "workers/calltypes.py"}
"""Needs cloudpickle: nothing that a service's worker imports at once may import it."""
STANDARD_LIBRARY = sys.stdlib_module_names | {"annotationlib"}  # 3.14's


ARCHITECTURE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()


def test_every_file_stands_in_its_room() -> None:
    """In the tables of ARCHITECTURE.md."""
    rooms = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]
    named = set(re.findall(r"[a-z_0-9]+", rooms))
    files = {Path(each.name).stem for each in sources("workers", "supervisor", "api")} - {"__init__", "__main__"}
    assert not files - named


def test_without_a_journal_nothing_of_it_is_imported() -> None:
    program = "import sys, killable.supervisor.service; print({'sqlite3', *sys.argv[1:]} & set(sys.modules))"
    ours = [f"killable.supervisor.{name}" for name in ("journal", "journalfile", "chronicle", "restoring")]
    done = subprocess.run([sys.executable, "-c", program, *ours], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def top(module: str) -> str:
    return module.partition(".")[0]


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_workers_import_the_standard_library_and_themselves() -> None:
    for each in sources("workers"):
        for found in each.imports():
            if top(found.module) in STANDARD_LIBRARY or is_of(found.module, "killable.workers"):
                continue
            if each.name == "workers/pickles.py" and found.module == "cloudpickle":
                continue
            builtin_job = each.name.startswith("workers/builtin/") and top(found.module) == "killable"
            users = each.name in USERS_SIDE and not found.at_once and top(found.module) != "killable"
            assert builtin_job or users, f"{each.name}:{found.line} imports {found.module}"


def test_only_an_executors_workers_need_cloudpickle() -> None:
    for each in sources("workers"):
        if each.name in EXECUTORS_SIDE:
            continue
        for found in each.imports():
            executors = f"{found.module.replace('killable.', '').replace('.', '/')}.py" in EXECUTORS_SIDE
            assert not (executors and found.at_once), f"{each.name}:{found.line} imports {found.module}"


@pytest.mark.parametrize("name", PURE)
def test_deciding_touches_no_clock_no_loop_and_no_system(name: str) -> None:
    modules = {top(found.module) for found in source(name).imports()}
    assert not modules & (SYSTEM | {"asyncio", "time", "threading", "random"})
    assert "Pure" in source(name).docstring


def test_what_says_that_it_is_pure_is() -> None:
    for each in sources("supervisor"):
        if "Pure" in each.docstring and each.name != "supervisor/settings.py":  # which counts the processors
            modules = {top(found.module) for found in each.imports()}
            assert not modules & (SYSTEM | {"asyncio", "time", "threading", "random"}), each.name


def test_the_seam_says_that_it_is_the_seam() -> None:
    assert {each.name for each in sources("supervisor") if "Part of the seam" in each.docstring} == SEAM


def test_only_the_seam_touches_the_system() -> None:
    for each in sources("supervisor"):
        modules = {top(found.module) for found in each.imports()} & SYSTEM
        if each.name in ("supervisor/configuration/config.py", "supervisor/settings.py"):
            modules -= {"os"}  # paths, and the number of processors
        assert not modules or each.name in SEAM, f"{each.name} imports {modules}"


def test_signals_are_sent_by_the_seam_only() -> None:
    """And there by pidfd: a bare number may be a stranger's by now."""
    for each in sources("supervisor", "api"):
        for called, line in each.calls():
            last = called.rpartition(".")[2]
            assert last not in ("killpg", "raise_signal", "pthread_kill", "sigqueue") and called != "os.kill", (
                f"{each.name}:{line}"
            )
            if last == "pidfd_send_signal":
                # The one only asks whether it could, the other ends a server that does not go.
                allowed = SEAM | {"api/cli/checks.py", "api/cli/serving_process.py"}
                assert each.name in allowed, f"{each.name}:{line}"


def test_the_workers_send_signals_only_to_their_own_unreaped_children() -> None:
    sending = {
        each.name for each in sources("workers") if {"os.kill", "os.killpg"} & {called for called, _ in each.calls()}
    }
    assert sending == {"workers/guard.py", "workers/offspring.py"}


def test_nothing_in_the_supervisor_sleeps() -> None:
    for each in sources("supervisor"):
        for called, line in each.calls():
            assert called.rpartition(".")[2] not in ("sleep", "nanosleep", "sched_yield"), (
                f"{each.name}:{line} {called}"
            )


IN_OTHER_THREADS = {"journal", "loan", "executor/call", "executor/calls", "executor/mapping"}
"""Whose moments are those of another thread."""


def test_only_the_clock_reads_a_clock() -> None:
    for each in sources("supervisor"):
        if each.name == "supervisor/clock.py":
            continue
        assert "time" not in {top(found.module) for found in each.imports()}
        for called, line in each.calls():
            last = called.rpartition(".")[2]
            assert last not in ("utcnow", "today", "perf_counter"), f"{each.name}:{line} {called}"
            waits = each.name in SEAM | {f"supervisor/{name}.py" for name in IN_OTHER_THREADS}
            assert last != "monotonic" or waits, f"{each.name}:{line} {called}"
            assert not called.startswith("datetime"), f"{each.name}:{line} {called}"
            if last == "time":
                assert each.name in SEAM, f"{each.name}:{line} {called}: what decides is told the time"
