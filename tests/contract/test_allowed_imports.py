"""What each room may touch: processes and signals only in supervisor/linux, a clock in one file, packages in three."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence, Set

import pytest

from contract.source import LAYERS, Import, Source, check, sources

PURE = [
    *(f"supervisor/attempts/{name}.py" for name in ("escalation", "exit_outcome", "measuring_pace", "resource_limits")),
    *(f"supervisor/jobs/{name}.py" for name in ("lifecycle", "job_queue")),
    "supervisor/pools/pool_sizing.py",
    "supervisor/pools/start_failures.py",
]
LINUX = {each.name for each in sources("supervisor") if each.name.startswith("supervisor/linux/")}
SYSTEM_MODULES = LINUX - {"supervisor/linux/__init__.py"}
"""The only files of the supervisor that touch processes, signals, cgroups and pipes."""
SYSTEM = {"os", "signal", "socket", "_socket", "subprocess", "select", "fcntl", "psutil", "resource", "ctypes"}
USERS_SIDE = {
    "workers/authoring/pydantic_types.py",
    *(f"workers/builtin/{name}.py" for name in ("embed", "generate", "tokenize")),
}
"""May use what the user's interpreter has, inside functions: nothing else needs it."""
EXECUTORS_SIDE = {
    *(f"workers/protocol/{name}.py" for name in ("pickling", "by_value", "definitions")),
    *(f"workers/runtime/{name}.py" for name in ("call_execution", "executor_setup", "executor_jobs")),
}
"""Needs cloudpickle: nothing that a service's worker imports at once may import it."""
OTELS_SIDE = {f"workers/authoring/{name}.py" for name in ("otel_context", "otel_processor")}
"""Needs OpenTelemetry: imported inside functions only, where the job's code has imported that."""
REAPERS = {
    *(f"workers/processes/{name}.py" for name in ("child_reaper", "command_keeper", "guard")),
    "workers/commands/command_execution.py",
}
"""Send signals to their own unreaped children."""
TO_ITSELF = "supervisor/linux/own_signals.py"
"""Signals itself and its own process group."""
SENDING = ("killpg", "raise_signal", "pthread_kill", "sigqueue")
STANDARD_LIBRARY = sys.stdlib_module_names | {"annotationlib"}  # 3.14's


@pytest.mark.parametrize(
    ("imported", "found"),
    [("supervisor", "set()"), ("journal.journal_thread", "{'killable.supervisor.journal.journal_thread'}")],
)
def test_without_a_journal_nothing_of_it_is_imported(imported: str, found: str) -> None:
    """And who imports one module of it is seen."""
    program = f"import sys, killable.supervisor.{imported}; print(set(sys.argv[1:]) & set(sys.modules))"
    ours = ["dispatch.recovery", "journal", "journal.journal_file", "journal.job_notes"]
    asked = ["sqlite3", *(f"killable.supervisor.{name}" for name in ours)] if imported == "supervisor" else []
    done = subprocess.run(
        [sys.executable, "-c", program, *asked, "killable.supervisor.journal.journal_thread"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{found}\n"


def top(module: str) -> str:
    return module.partition(".")[0]


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@check
def foreign_imports(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{found.line} imports {found.module}"
        for each in looked_at
        for found in each.imports
        if each.room == "workers" and not _may_import(each.name, found)
    ]


def _may_import(name: str, found: Import) -> bool:
    if top(found.module) in STANDARD_LIBRARY or is_of(found.module, "killable.workers"):
        return True
    if name in EXECUTORS_SIDE and name.startswith("workers/protocol/") and is_of(found.module, "cloudpickle"):
        return True
    if name in OTELS_SIDE and is_of(found.module, "opentelemetry"):
        return True
    builtin_job = name.startswith("workers/builtin/") and top(found.module) == "killable"
    return builtin_job or (name in USERS_SIDE and not found.at_once and top(found.module) != "killable")


def test_workers_import_the_standard_library_and_themselves() -> None:
    assert foreign_imports(sources("workers")) == []


def _imported_at_once(looked_at: Sequence[Source], side: Set[str]) -> list[str]:
    modules = [name.removesuffix(".py").replace("/", ".") for name in sorted(side)]
    return [
        f"{each.name}:{found.line} imports {found.module}"
        for each in looked_at
        for found in each.imports
        if each.room == "workers" and each.name not in side and found.at_once
        if any(is_of(found.module, f"killable.{module}") for module in modules)
    ]


@check
def needing_cloudpickle(looked_at: Sequence[Source]) -> list[str]:
    return _imported_at_once(looked_at, EXECUTORS_SIDE)


@check
def needing_opentelemetry(looked_at: Sequence[Source]) -> list[str]:
    return _imported_at_once(looked_at, OTELS_SIDE)


def test_opentelemetry_is_imported_for_jobs_that_use_it() -> None:
    assert needing_opentelemetry(sources("workers")) == []


def test_only_an_executors_workers_need_cloudpickle() -> None:
    assert needing_cloudpickle(sources("workers")) == []


@check
def impure(looked_at: Sequence[Source]) -> list[str]:
    """Those that have to be pure, and those that say that they are."""
    touched = SYSTEM | {"asyncio", "time", "threading", "random"}
    found = [
        f"{each.name}:{imported.line} imports {imported.module}"
        for each in looked_at
        if each.name in PURE or ("Pure" in each.docstring and each.room == "supervisor")
        if each.name != "supervisor/settings.py"  # which counts the processors
        for imported in each.imports
        if top(imported.module) in touched
    ]
    return found + [each.name for each in looked_at if each.name in PURE and "Pure" not in each.docstring]


def test_deciding_touches_no_clock_no_loop_and_no_system() -> None:
    assert impure(sources("supervisor")) == []
    assert set(PURE) <= {each.name for each in sources("supervisor")}


@check
def undeclared_system_modules(looked_at: Sequence[Source]) -> list[str]:
    """Modules whose docstring wrongly says "Behind `ports`", and those whose docstring has to say so and does not."""
    return [
        each.name
        for each in looked_at
        if each.room == "supervisor" and ("Behind `ports`" in each.docstring) != (each.name in SYSTEM_MODULES)
    ]


def test_the_modules_that_touch_the_system_say_so() -> None:
    assert undeclared_system_modules(sources("supervisor")) == []
    assert {each.name for each in sources("supervisor")} >= SYSTEM_MODULES


USING_FILES = {
    "supervisor/configuration/absolute_paths.py",
    "supervisor/configuration/layers.py",
    "supervisor/settings.py",
    "supervisor/journal/file_permissions.py",
    "supervisor/journal/generation_mark.py",
    "supervisor/journal/log_room.py",
    "supervisor/telemetry/disk_gauges.py",
}
"""May import `os`: for paths, the number of processors, what the journal's file is, and the room on disks."""


@check
def touching_the_system(looked_at: Sequence[Source]) -> list[str]:
    found = []
    for each in looked_at:
        forbidden = set() if each.room != "supervisor" or each.name in SYSTEM_MODULES else SYSTEM
        if each.name in USING_FILES:
            forbidden = forbidden - {"os"}
        found += [f"{each.name}:{seen.line} {seen.module}" for seen in each.imports if top(seen.module) in forbidden]
    return found


def test_only_those_modules_touch_the_system() -> None:
    assert touching_the_system(sources("supervisor")) == []


@check
def signals_elsewhere(looked_at: Sequence[Source]) -> list[str]:
    """And, in these modules, signals to a bare number, which may be another process by now; or, in the workers' room,
    to anything but their own unreaped children.
    """
    # The one only asks whether it could, the other ends a server that does not go.
    by_pidfd = SYSTEM_MODULES | {"api/cli/diagnosis/machine_checks.py", "api/cli/server/running_server.py"}
    found = []
    for each in looked_at:
        for called, line in each.calls:
            last = called.rpartition(".")[2]
            by_number = called in ("os.kill", "os.killpg") or last in SENDING
            if each.room == "workers":
                wrong = called in ("os.kill", "os.killpg") and each.name not in REAPERS
            else:
                wrong = (by_number and each.name != TO_ITSELF) or (
                    last == "pidfd_send_signal" and each.name not in by_pidfd
                )
            if wrong:
                found.append(f"{each.name}:{line} {called}")
    return found


def test_signals_are_sent_by_those_modules_only() -> None:
    assert signals_elsewhere(sources(*LAYERS)) == []
    sending = {each.name for each in sources("workers") if "os.kill" in {called for called, _ in each.calls}}
    assert sending == REAPERS


@check
def sleeping(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{line} {called}"
        for each in looked_at
        for called, line in each.calls
        if each.room == "supervisor" and called.rpartition(".")[2] in ("sleep", "nanosleep", "sched_yield")
    ]


def test_nothing_in_the_supervisor_sleeps() -> None:
    assert sleeping(sources("supervisor")) == []


IN_OTHER_THREADS = {
    f"supervisor/{name}.py"
    for name in (
        "journal/journal_thread",
        "pools/lane",
        "telemetry/log_lines",
        "telemetry/loop_turns",
        "telemetry/telemetry",
        *(
            f"executor/{name}"
            for name in ("program_end", "mapping", "pending_tasks", "output_relay", "streams", "task")
        ),
    )
}
"""Whose moments are those of another thread, or of the turns of the loop."""


@check
def clocks_elsewhere(looked_at: Sequence[Source]) -> list[str]:
    found = []
    for each in looked_at:
        if each.room != "supervisor" or each.name == "supervisor/clock.py":
            continue
        found += [f"{each.name}:{seen.line} {seen.module}" for seen in each.imports if top(seen.module) == "time"]
        for called, line in each.calls:
            last = called.rpartition(".")[2]
            reads = last in ("utcnow", "today", "perf_counter") or top(called) == "datetime"
            waits = last == "monotonic" and each.name not in SYSTEM_MODULES | IN_OTHER_THREADS
            told = last == "time" and each.name not in SYSTEM_MODULES  # what decides is told the time
            if reads or waits or told:
                found.append(f"{each.name}:{line} {called}")
    return found


def test_only_the_clock_reads_a_clock() -> None:
    assert clocks_elsewhere(sources("supervisor")) == []
