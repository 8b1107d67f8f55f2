"""What each process imports to start: no more than is listed here, for it is what a first result waits for."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from killable import Executor
from killable.api.cli.verbs import VERBS

RUNTIME = ("asyncio", "pydantic", "importlib.metadata", "tempfile", "pathlib", "urllib", "hashlib", "subprocess")
"""Nothing of these is needed in a guard, zygote or worker of an Executor."""
NOT_IN_A_GUARD = (*RUNTIME, "logging", "dataclasses", "inspect", "traceback", "multiprocessing", "pickle", "threading")
NOT_FOR_THE_NAME = ("asyncio", "pydantic", "dataclasses", "subprocess", "socket", "json", "pickle", "multiprocessing")
"""Nothing of these is imported by `from killable import Executor` itself."""
GUARDS = {
    "exit_codes", "processes", "processes.child_reaper", "processes.descendants", "processes.guard", "protocol",
    "protocol.control", "protocol.fd_passing", "runtime", "runtime.process_setup",
}  # fmt: skip
WORKERS = GUARDS | {
    "authoring", "authoring.backstops", "authoring.context", "authoring.identifiers", "authoring.operations",
    "authoring.preloads", "authoring.registered", "authoring.requirements", "authoring.shield",
    "processes.exec_worker", "processes.zygote", "protocol.by_value", "protocol.call_message", "protocol.codec",
    "protocol.exception_pickling", "protocol.frames", "protocol.log_records", "protocol.messages",
    "protocol.named_memory",
    "protocol.pickling", "protocol.reducers", "protocol.script_globals", "protocol.shared_memory",
    "protocol.token_ring", "runtime.call_execution", "runtime.catalogue", "runtime.crash_stack",
    "runtime.backward_jump", "runtime.dump_signal", "runtime.execution", "runtime.executor_jobs",
    "runtime.executor_setup", "runtime.frame_writer", "runtime.harness", "runtime.line_reader",
    "runtime.memory_names", "runtime.memory_removal",
    "runtime.order_reader", "runtime.process_setup", "runtime.program_logging", "runtime.removal",
    "runtime.reuse_check", "runtime.rlimits", "runtime.stop_signal", "runtime.warmup",
}  # fmt: skip
"""Modules of `killable.workers`."""
NAME = {
    "killable", "killable.supervisor", "killable.supervisor.executor", "killable.supervisor.executor.executor",
    "killable.supervisor.linux", "killable.supervisor.linux.host_forks", "killable.workers", "killable.workers.runtime",
    "killable.workers.runtime.executor_setup",
}  # fmt: skip

START_GUARD = """
import os
from killable.supervisor.linux.guard_launch import start_guard

guard, sock = start_guard("", "", {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
sock.close()
guard.wait()
"""


def too_many(loaded: set[str], ours: set[str], never: tuple[str, ...]) -> set[str]:
    """Return the modules that are of ours and not listed, or are never to be imported."""
    return {
        name
        for name in loaded
        if (name.partition(".")[0] == "killable" and name not in ours)
        or any(name == each or name.startswith(f"{each}.") for each in never)
    }


def of_workers(names: set[str]) -> set[str]:
    return {"killable", "killable.workers", *(f"killable.workers.{name}" for name in names)}


def imported(*command: str, **env: str) -> set[str]:
    """Return what the processes of a command import, as they report it themselves (-X importtime; a module that
    `importlib.import_module` is asked for is not among them, but all that it imports is).
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))


def test_the_guard_imports_what_it_needs() -> None:
    loaded = imported(sys.executable, "-c", START_GUARD)
    assert "killable.workers.processes.child_reaper" in loaded
    assert too_many(loaded, of_workers(GUARDS), NOT_IN_A_GUARD) == set()


def test_a_worker_of_an_executor_has_what_it_needs_and_no_declarations() -> None:
    """A worker is a fork of the zygote, and has what that has imported."""
    with Executor(max_workers=1, spares=0) as executor:
        loaded = executor.submit(lambda: set(sys.modules)).result()
    assert too_many(loaded, of_workers(WORKERS), RUNTIME) == set()


def test_the_name_executor_imports_nothing_that_can_wait_for_the_start_of_the_guard() -> None:
    program = "from killable import Executor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}; {program}"],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    assert too_many(set(done.stdout.split()), NAME, NOT_FOR_THE_NAME) == set()


@pytest.mark.parametrize(
    "asked",
    [
        {"words": "--help"},
        {"words": "", "_KILLABLE_COMPLETE": "complete_bash", "COMP_WORDS": "killable ", "COMP_CWORD": "1"},
    ],
    ids=["help", "completion"],
)
def test_a_list_of_verbs_imports_no_verb(asked: dict[str, str]) -> None:
    words, env = asked["words"], {name: value for name, value in asked.items() if name != "words"}
    command = [str(Path(sys.executable).parent / "killable"), *words.split()]
    loaded = imported(*command, PYTHONPROFILEIMPORTTIME="1", **env)
    assert "killable.api.cli.verbs" in loaded
    assert too_many(loaded, {"killable", "killable.api", "killable.api.cli", "killable.api.cli.verbs"},
                    ("asyncio", "pydantic", "httpx")) == set()  # fmt: skip


@pytest.mark.parametrize("verb", ["ps", "serve", "submit", "wait", "kill", "shutdown", "demo"])
def test_the_help_of_a_verb_imports_neither_client_nor_server(verb: str) -> None:
    loaded = imported(str(Path(sys.executable).parent / "killable"), verb, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert "killable.api.cli.display.errors" in loaded, "what each verb imports"
    never = ("pydantic", "httpx", "fastapi", "uvicorn", "killable.api.client.client", "killable.api.http",
             "killable.supervisor.supervisor")  # fmt: skip
    assert {name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in never)} == set()


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if not verb.hidden])
def test_a_verbs_summary_is_how_its_docstring_begins(name: str) -> None:
    verb = VERBS[name]
    function = getattr(import_module(f"killable.api.cli.commands.{verb.module}"), verb.function)
    assert (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ") == verb.summary
