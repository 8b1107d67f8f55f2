"""faulthandler runs in no process that is to live: it may crash running Python code.

It is registered for one signal, that signal has one sender, and the sender one caller: the escalation, right before
SIGKILL. That a dump is always followed by SIGKILL or by the exit is a property of the plan (`tests/properties`).
"""

from __future__ import annotations

import ast

from contract.source import LAYERS, Source, source, sources


def uses(where: Source, name: str) -> list[str]:
    """Return the outermost function of each use of a name or attribute in a file; its imports are no use."""
    found = []
    for outer in ast.walk(where.tree):
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(outer):
                if (isinstance(node, ast.Name) and node.id == name) or (
                    isinstance(node, ast.Attribute) and node.attr == name
                ):
                    found.append(f"{where.name} {outer.name}")
    return found


def used(name: str) -> list[str]:
    return [use for where in sources(*LAYERS) for use in uses(where, name)]


def test_faulthandler_is_registered_for_the_dump_signal_and_never_enabled() -> None:
    assert used("faulthandler") == ["workers/harness.py __init__"]
    calls = [call for where in sources(*LAYERS) for call, _ in where.calls() if call.startswith("faulthandler")]
    assert calls == ["faulthandler.register"]
    (register,) = [
        node
        for node in ast.walk(source("workers/harness.py").tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "faulthandler.register"
    ]
    assert ast.unparse(register.args[0]) == "DUMP_SIGNAL"


def test_nothing_turns_faulthandler_on_from_outside() -> None:
    """Not by -X faulthandler, nor by PYTHONFAULTHANDLER, in what we start."""
    for where in sources(*LAYERS):
        texts = [node.value for node in ast.walk(where.tree) if isinstance(node, ast.Constant)]
        assert "PYTHONFAULTHANDLER" not in texts and "-X" not in texts and "-Xfaulthandler" not in texts, where.name


def test_the_dump_signal_has_one_sender_and_it_one_caller() -> None:
    assert sorted(used("DUMP_SIGNAL")) == ["supervisor/machine/process.py dump", "workers/harness.py __init__"]
    callers = [
        (where.name, line) for where in sources(*LAYERS) for call, line in where.calls() if call == "process.dump"
    ]
    (caller,) = callers
    lines = source(caller[0]).text.splitlines()
    assert lines[caller[1] - 2].strip() == "case Action.DUMP:", caller
