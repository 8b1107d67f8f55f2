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
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.verbs import VERBS

RUNTIME = ("asyncio", "pydantic", "importlib.metadata", "tempfile", "pathlib", "urllib", "hashlib", "subprocess")
"""Nothing of these is needed in a guard, zygote or worker of an Executor."""
NOT_IN_A_GUARD = (*RUNTIME, "logging", "dataclasses", "inspect", "traceback", "multiprocessing", "pickle", "threading")
NOT_FOR_A_NAMED_FUNCTION = (*RUNTIME, "cloudpickle", "dataclasses", "inspect", "uuid", "platform")
"""Nothing of these is needed in the first worker for a function that it finds in a module."""
NOT_FOR_A_RESULT = (
    "pydantic", "importlib.metadata", "hashlib", "cloudpickle", "uuid", "platform", "killable.supervisor.journal",
    "killable.supervisor.configuration",
)  # fmt: skip
"""Nothing of these is needed in a program that calls a function of a module, until it has the result."""
NOT_FOR_A_SUPERVISOR = (
    *NOT_FOR_A_RESULT, "tempfile", "shutil", "random", "datetime", "multiprocessing", "concurrent.futures.process",
    "killable.supervisor.attempts.attempt",
)  # fmt: skip
"""Nothing of these is imported before an Executor's first worker can start; some come while it does."""
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
    "runtime.executor_setup", "runtime.frame_writer", "runtime.harness", "runtime.interrupted_code",
    "runtime.line_reader", "runtime.memory_names", "runtime.memory_removal",
    "runtime.order_reader", "runtime.process_setup", "runtime.program_logging", "runtime.removal",
    "runtime.reuse_check", "runtime.rlimits", "runtime.sigterm_handler", "runtime.warmup",
    "runtime.worker_identity",
}  # fmt: skip
"""Modules of `killable.workers`."""
NAME = {
    "killable", "killable.supervisor", "killable.supervisor.executor", "killable.supervisor.executor.executor",
    "killable.supervisor.linux", "killable.supervisor.linux.fork_lock", "killable.workers", "killable.workers.runtime",
    "killable.workers.runtime.executor_setup",
}  # fmt: skip

NOT_FOR_HELP = ("pydantic", "httpx", "rich.markdown", "rich.traceback", "markdown_it", "pygments")
"""Nothing of these is needed to show help."""

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


def imported(*command: str, returns: int = 0, **env: str) -> set[str]:
    """Return what the processes of a command import, as they report it themselves (-X importtime; a module that
    `importlib.import_module` is asked for is not among them, but all that it imports is).
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert done.returncode == returns, done.stderr
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


FIRST_RESULT = """
import sys
from killable import Executor

with Executor(max_workers=1, spares=0) as executor:
    in_worker = executor.submit(eval, "list(__import__('sys').modules)").result()
    print(*sys.modules)
    print(*in_worker)
"""


def test_the_first_result_waits_for_no_import_that_can_come_later() -> None:
    program = f"import sys; sys.path = {sys.path!r}; exec({FIRST_RESULT!r})"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    in_program, in_worker = (set(line.split()) for line in done.stdout.splitlines())
    assert "asyncio" in in_program and "killable.supervisor.supervisor" in in_program
    ours = {name for name in in_program if name.partition(".")[0] == "killable"}
    assert too_many(in_program, ours, NOT_FOR_A_RESULT) == set()
    assert too_many(in_worker, of_workers(WORKERS), NOT_FOR_A_NAMED_FUNCTION) == set()


def test_an_executors_supervisor_imports_nothing_that_can_come_while_its_workers_start() -> None:
    program = "import killable.supervisor.executor.program_end; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}; {program}"],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.partition(".")[0] == "killable"}
    assert too_many(loaded, ours, NOT_FOR_A_SUPERVISOR) == set()


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
    ours = {f"killable{name}" for name in ("", ".api", ".api.cli", ".api.cli.lean_commands", ".api.cli.verbs")}
    assert too_many(loaded, ours, ("asyncio", *NOT_FOR_HELP)) == set()


@pytest.mark.parametrize("verb", ["ps", "serve", "submit", "wait", "kill", "shutdown", "demo"])
def test_the_help_of_a_verb_imports_neither_client_nor_server(verb: str) -> None:
    loaded = imported(str(Path(sys.executable).parent / "killable"), verb, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert "killable.api.cli.display.errors" in loaded, "what each verb imports"
    never = (*NOT_FOR_HELP, "fastapi", "uvicorn", "killable.api.client.client", "killable.api.http",
             "killable.supervisor.supervisor")  # fmt: skip
    assert {name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in never)} == set()


@pytest.mark.parametrize("words", ["ps --limit 3", "inspect w-1", "kill job-1 --reason why", "types"])
def test_a_verb_that_calls_a_server_imports_no_validation_and_no_other_command(words: str) -> None:
    """Typer would import pydantic to validate text as text, and httpx its own command, with click and rich."""
    command = [str(Path(sys.executable).parent / "killable"), *words.split(), "--url", f"unix:{__file__}"]
    loaded = imported(*command, returns=CommandExit.UNREACHABLE, PYTHONPROFILEIMPORTTIME="1")
    assert "httpx" in loaded
    never = ("click", *(("pydantic",) if "--limit" not in words else ()))
    assert {name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in never)} == set()


@pytest.mark.parametrize("verb", ["", "ps", "submit", "keys"])
def test_help_is_what_typer_shows_with_all_that_it_imports(verb: str) -> None:
    whole = "import typer.rich_utils, sys; from killable.api.cli import main; sys.argv[0] = 'killable'; main()"
    env = {**os.environ, "COLUMNS": "90", "FORCE_COLOR": "1"}
    told = [
        subprocess.run([*command, *verb.split(), "--help"], capture_output=True, timeout=60, check=True, env=env).stdout
        for command in ([sys.executable, "-c", whole], [str(Path(sys.executable).parent / "killable")])
    ]
    assert told[0] == told[1] and b"\x1b[" in told[0]


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if not verb.hidden])
def test_a_verbs_summary_is_how_its_docstring_begins(name: str) -> None:
    verb = VERBS[name]
    function = getattr(import_module(f"killable.api.cli.commands.{verb.module}"), verb.function)
    assert (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ") == verb.summary
