"""What each process imports to start: no more than is listed here, for it is what a first result waits for."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from contract.source import sources
from killable import Executor
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.verbs import VERBS
from killable.workers.authoring.limits_and_caps import LIMITS

RUNTIME = (
    "asyncio", "pydantic", "importlib.metadata", "tempfile", "pathlib", "urllib", "hashlib", "subprocess", "base64",
    "socket", "selectors", "array",
)  # fmt: skip
"""Nothing of these is needed in a guard, zygote or worker of an Executor."""
NOT_IN_A_GUARD = (
    *RUNTIME, "logging", "dataclasses", "inspect", "traceback", "multiprocessing", "pickle", "threading",
)  # fmt: skip
NOT_FOR_A_NAMED_FUNCTION = (
    *RUNTIME, "cloudpickle", "dataclasses", "inspect", "uuid", "platform", "logging", "multiprocessing",
)  # fmt: skip
"""Nothing of these is needed in the first worker for a function that it finds in a module."""
NOT_FOR_A_RESULT = (
    "pydantic", "importlib.metadata", "hashlib", "cloudpickle", "uuid", "platform", "tempfile", "shutil", "random",
    "datetime", "concurrent.futures.process", "killable.supervisor.journal", "killable.supervisor.configuration",
    "killable.supervisor.attempts.attempt",
)  # fmt: skip
"""Nothing of these is needed in a program that calls a function of a module, until it has the result."""
NOT_FOR_A_SUPERVISOR = (*NOT_FOR_A_RESULT, "multiprocessing")
"""Nothing of these is imported before an Executor's first worker can start; some come while it does."""
NOT_FOR_THE_NAME = ("asyncio", "pydantic", "dataclasses", "subprocess", "socket", "json", "pickle", "multiprocessing")
"""Nothing of these is imported by `from killable import Executor` itself."""
GUARDS = {
    "exit_codes", "named_tuples", "processes", "processes.child_reaper", "processes.descendants", "processes.guard",
    "protocol", "protocol.zygote_messages", "protocol.fd_passing", "runtime", "runtime.process_setup",
}  # fmt: skip
WORKERS = GUARDS | {
    "authoring", "headroom_over_limits", "authoring.context", "authoring.identifiers", "authoring.operations",
    "authoring.preloads", "authoring.registered_types", "authoring.requirements", "authoring.shield",
    "processes.exec_worker", "processes.worker_start", "processes.zygote", "protocol.by_value",
    "protocol.call_message", "protocol.codec",
    "protocol.exception_pickling", "protocol.frames", "protocol.log_records", "protocol.message_bounds",
    "protocol.messages", "protocol.named_memory_log",
    "protocol.pickling", "protocol.reducers", "protocol.script_globals", "protocol.shared_memory",
    "protocol.token_ring", "protocol.trace_context", "runtime.trace_place",
    "runtime.call_execution", "runtime.job_type_catalogue", "runtime.crash_stack",
    "runtime.backward_jump", "runtime.copy_on_write", "runtime.dump_signal", "runtime.execution",
    "runtime.executor_jobs",
    "runtime.executor_setup", "runtime.frame_writer", "runtime.worker_loop", "runtime.import_hooks",
    "runtime.interrupted_code",
    "runtime.call_reader", "runtime.named_memory_hooks", "runtime.leftover_memory",
    "runtime.order_reader", "runtime.process_setup", "runtime.program_logging", "runtime.tmp_removal",
    "runtime.reuse_check", "runtime.rlimits", "runtime.sigterm_handler", "runtime.warmup",
    "runtime.worker_identity",
}  # fmt: skip
"""Modules of `killable.workers`."""
NAME = {
    "killable", "killable.supervisor", "killable.supervisor.executor", "killable.supervisor.executor.executor",
    "killable.supervisor.linux", "killable.supervisor.linux.program_forks", "killable.workers",
    "killable.workers.named_tuples", "killable.workers.runtime", "killable.workers.runtime.executor_setup",
}  # fmt: skip

FOR_HELP = {
    "killable", "killable.api", "killable.api.cli", "killable.api.cli.app", "killable.api.cli.declarations",
    "killable.api.cli.declarations.commands", "killable.api.cli.declarations.jobs",
    "killable.api.cli.declarations.machine", "killable.api.cli.declarations.server",
    "killable.api.cli.declarations.shared_options",
    "killable.api.cli.declarations.verb_command", "killable.api.cli.interrupts", "killable.api.cli.parameters",
    "killable.api.cli.parameters.completion", "killable.api.cli.parameters.completion_scripts",
    "killable.api.cli.parameters.option_values", "killable.api.cli.parameters.run_arguments",
    "killable.api.cli.verbs", "killable.api.client",
    "killable.api.client.addresses", "killable.workers", "killable.workers.authoring",
    "killable.workers.authoring.identifiers", "killable.workers.authoring.limits_and_caps",
    "killable.workers.authoring.units", "killable.workers.named_tuples",
}  # fmt: skip
NOT_FOR_HELP = ("pydantic", "httpx", "rich", "asyncio", "logging", "dataclasses", "json", "subprocess", "shellingham")
"""Nothing of these is needed to show help."""

BEFORE_THE_GUARD = {
    *NAME, "killable.supervisor.linux.early_guard", "killable.supervisor.linux.environment_defaults",
    "killable.supervisor.linux.guard_launch", "killable.supervisor.linux.instance_id", "killable.workers.protocol",
    "killable.workers.protocol.fd_passing",
}  # fmt: skip
"""What a program imports before it starts its first guard."""

COMPILED = """
import builtins, importlib, sys
from killable.workers.processes import boot

compiled = []
compile_it = builtins.compile
builtins.compile = lambda source, *more, **options: compiled.append(source) or compile_it(source, *more, **options)
for name in (*boot.ROLES.values(), "killable.workers.processes.zygote", *sys.argv[1:]):
    importlib.import_module(name)
print(compiled)
"""

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


def test_a_guard_and_its_zygote_compile_no_annotation() -> None:
    """The first one takes 2 ms, as the compiler's own types are made then."""
    from killable.workers.runtime.executor_setup import IMPORTED_AHEAD

    command = [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}; exec({COMPILED!r})", *IMPORTED_AHEAD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_named_tuples_are_of_the_kind_that_is_quick_to_define() -> None:
    """Those of the job types to copy are of `typing`, as their readers know it."""
    theirs = {
        each.name for each in sources("workers", "supervisor", "api")
        for line in each.text.splitlines() if re.match(r" *from typing import .*\bNamedTuple\b", line)
    }  # fmt: skip
    assert theirs == {"workers/named_tuples.py", "workers/builtin/embed.py"}


def test_the_first_guard_is_started_before_its_messages_are_imported() -> None:
    program = "from killable import Executor; import killable.supervisor.linux.early_guard; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}; {program}"],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    ours = {name for name in done.stdout.split() if name.partition(".")[0] == "killable"}
    assert ours - BEFORE_THE_GUARD == set()


def test_a_worker_of_an_executor_has_what_it_needs_and_no_declarations() -> None:
    """A worker is a fork of the zygote, and has what that has imported."""
    with Executor(max_workers=1, spares=0) as executor:
        loaded = executor.submit(lambda: set(sys.modules)).result()
    assert too_many(loaded, of_workers(WORKERS), RUNTIME) == set()


FIRST_RESULT = """
import sys
from killable import Executor
from killable.supervisor.executor import ending_imports, pending_tasks

pending_tasks.REPLACE_AFTER_S = ending_imports.LOAD_AFTER_S = 3600  # however slow this machine is
with Executor(**OPTIONS) as executor:
    in_worker = executor.submit(eval, "list(__import__('sys').modules)").result()
    print(*sys.modules)
    print(*in_worker)
"""


def at_the_first_result(**options: int) -> list[set[str]]:
    """Return the modules of a program that has its first result, and those of the worker that it came from."""
    program = f"import sys; sys.path = {sys.path!r}; exec({FIRST_RESULT.replace('OPTIONS', repr(options))!r})"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_the_first_result_waits_for_no_import_that_can_come_later() -> None:
    # Two workers: more are still started. The second one has what the zygote shares from then on, and may be the one
    # that the result comes from.
    in_program, _ = at_the_first_result(max_workers=2)
    assert "asyncio" in in_program and "killable.supervisor.supervisor" in in_program
    ours = {name for name in in_program if name.partition(".")[0] == "killable"}
    assert too_many(in_program, ours, NOT_FOR_A_RESULT) == set()
    _, in_the_first_worker = at_the_first_result(max_workers=1, spares=0)
    assert too_many(in_the_first_worker, of_workers(WORKERS), NOT_FOR_A_NAMED_FUNCTION) == set()


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
        {"words": "submit --help"},
        {"words": "serve --help"},
        {"words": "", "_KILLABLE_COMPLETE": "bash_complete", "COMP_WORDS": "killable ", "COMP_CWORD": "1"},
    ],
    ids=["help", "help of a verb", "help of another", "completion"],
)
def test_help_and_completion_import_no_verb(asked: dict[str, str]) -> None:
    words, env = asked["words"], {name: value for name, value in asked.items() if name != "words"}
    command = [str(Path(sys.executable).parent / "killable"), *words.split()]
    loaded = imported(*command, PYTHONPROFILEIMPORTTIME="1", **env)
    assert "killable.api.cli.verbs" in loaded
    assert too_many(loaded, FOR_HELP, NOT_FOR_HELP) == set()


def test_a_command_is_run_without_what_takes_longer_than_the_command() -> None:
    command = [str(Path(sys.executable).parent / "killable"), "run", "--run-s", "60", "--", "true"]
    loaded = imported(*command, PYTHONPROFILEIMPORTTIME="1")
    assert "killable.supervisor.commands.command_ending" in loaded
    never = ("click", "inspect", "dataclasses", "rich", "asyncio", "pydantic", "subprocess", "tempfile", "shutil")
    assert {name for name in loaded if name.partition(".")[0] in never} == set()


@pytest.mark.parametrize("words", ["ps --limit 3", "inspect w-1", "kill job-1 --reason why", "types"])
def test_a_verb_that_calls_a_server_imports_no_validation_and_no_other_command(words: str) -> None:
    """httpx would import its own command, with rich's Markdown and Pygments."""
    command = [str(Path(sys.executable).parent / "killable"), *words.split(), "--url", f"unix:{__file__}"]
    loaded = imported(*command, returns=CommandExit.UNREACHABLE, PYTHONPROFILEIMPORTTIME="1")
    assert "httpx" in loaded
    never = ("pydantic", "pygments", "rich.markdown")
    assert {name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in never)} == set()


def test_a_server_of_one_machine_imports_nothing_of_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("from killable import job\n\n\n@job\ndef one() -> int:\n    return 1\n")
    command = [sys.executable, "-X", "importtime", "-m", "killable.api.cli", "serve", "jobs.py", "--port=0", "--json"]
    with (tmp_path / "imports").open("wb") as imports:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=imports)
    assert server.stdout is not None
    with server.stdout:
        try:
            url = json.loads(server.stdout.readline())["url"]
            post = urllib.request.Request(f"{url}/v1/jobs", b'{"type": "one"}', {"Content-Type": "application/json"})
            job_id = json.load(urllib.request.urlopen(post))["job_id"]
            assert json.load(urllib.request.urlopen(f"{url}/v1/jobs/{job_id}/result?wait_s=60")) == 1
        finally:
            server.terminate()
            server.wait()
    loaded = re.findall(r"\| +([\w.]+)$", (tmp_path / "imports").read_text(), flags=re.MULTILINE)
    assert "killable.supervisor.dispatch.dispatcher" in loaded
    assert [name for name in loaded if name.startswith(("killable.supervisor.cluster", "ray"))] == []


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_is_declared_as_its_function_is(verb: VerbCommand) -> None:
    takes = inspect.signature(verb.function()).parameters.values()
    declared = {each.name for each in verb.params}
    if any(each.kind is each.VAR_KEYWORD for each in takes):
        declared -= set(LIMITS)
    assert declared == {each.name for each in takes if each.kind is not each.VAR_KEYWORD}
