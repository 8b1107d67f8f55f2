"""faulthandler runs in no process that is to live: it may crash running Python code.

It is registered for one signal, that signal has one sender, and the sender one caller: the escalation, right before
SIGKILL. That a dump is always followed by SIGKILL or by the exit is a property of the plan (`tests/properties`).
Enabled it is for the signals of a crash, in one file, which leaves them alone where anybody would go on after one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from contract.source import LAYERS, Source, check, sources

DEFINES = "workers/runtime/dump_signal.py outside of functions"
REGISTERS = "workers/runtime/worker_loop.py __init__"
OF_FAULTS = "workers/runtime/crash_stack.py"
"""Enables it for SIGSEGV and its like."""
OF_WATCHDOG = "api/cli/server/service_manager.py"
"""Enables it for the SIGABRT of a service manager, which ends the server."""
SENDS = "supervisor/linux/worker_process.py dump"
ELSEWHERE = ("PYTHONFAULTHANDLER", "-X", "-Xfaulthandler")
"""How it is turned on from outside."""


def uses(where: Source, name: str) -> list[str]:
    """Return the innermost function of each use of a name or attribute in a file; its imports are no use."""

    def walk(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if name in (getattr(node, "id", None), getattr(node, "attr", None)):
            yield f"{where.name} {function}"
        for below in ast.iter_child_nodes(node):
            yield from walk(below, function)

    return list(walk(where.tree, "outside of functions")) if name in where.text else []


def used(looked_at: Sequence[Source], name: str) -> list[str]:
    return [use for where in looked_at for use in uses(where, name)]


@check
def faulthandlers(looked_at: Sequence[Source]) -> list[str]:
    """Whatever is done with it but to register it for the dump signal, in one place, and beside that of faults."""
    looked_at = [each for each in looked_at if each.name not in (OF_FAULTS, OF_WATCHDOG)]
    found = [use for use in used(looked_at, "faulthandler") if use != REGISTERS]
    for each in looked_at:
        found += [f"{each.name} {seen.module}" for seen in each.imports if seen.module.startswith("faulthandler.")]
        nodes = each.nodes if "faulthandler" in each.text else []
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        written = [ast.unparse(node) for node in calls if "faulthandler" in ast.dump(node.func)]
        wrong = [call for call in written if not call.startswith("faulthandler.register(DUMP_SIGNAL, ")]
        found += [f"{each.name} {call}" for call in wrong]
    return found


def test_faulthandler_is_registered_for_the_dump_signal_and_enabled_for_faults_only() -> None:
    assert faulthandlers(sources(*LAYERS)) == []
    elsewhere = [each for each in sources(*LAYERS) if each.name not in (OF_FAULTS, OF_WATCHDOG)]
    (of_faults,) = (each for each in sources(*LAYERS) if each.name == OF_FAULTS)
    assert used(elsewhere, "faulthandler") == [REGISTERS]
    assert {called for called, _ in of_faults.calls if called.startswith("faulthandler.")} == {
        "faulthandler.is_enabled", "faulthandler.enable", "faulthandler.disable"
    }  # fmt: skip


@check
def turned_on_from_outside(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{node.lineno}"
        for each in looked_at
        for node in each.nodes
        if isinstance(node, ast.Constant) and node.value in ELSEWHERE
    ]


def test_nothing_turns_faulthandler_on_from_outside() -> None:
    """Not by -X faulthandler, nor by PYTHONFAULTHANDLER, in what we start."""
    assert turned_on_from_outside(sources(*LAYERS)) == []


@check
def senders_of_the_dump_signal(looked_at: Sequence[Source]) -> list[str]:
    """Whoever else sends it, and whoever else asks for that."""
    found = [use for use in used(looked_at, "DUMP_SIGNAL") if use not in (DEFINES, SENDS, REGISTERS)]
    for each in looked_at:
        lines = each.text.splitlines()
        for called, line in each.calls:
            if called.endswith("process.dump") and lines[line - 2].strip() != "case Action.DUMP:":
                found.append(f"{each.name}:{line}")
    return found


def test_the_dump_signal_has_one_sender_and_it_one_caller() -> None:
    assert senders_of_the_dump_signal(sources(*LAYERS)) == []
    assert sorted(used(sources(*LAYERS), "DUMP_SIGNAL")) == [SENDS, DEFINES, REGISTERS]
    calls = [called for where in sources(*LAYERS) for called, _ in where.calls if called.endswith("process.dump")]
    assert len(calls) == 1
