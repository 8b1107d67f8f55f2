"""api → supervisor → workers, never back. Read from the sources; `test_allowed_imports` has what rooms may touch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from contract.source import LAYERS, ROOT, Source, check, sources

ABOVE = {"workers": ("killable.supervisor", "killable.api"), "supervisor": ("killable.api",)}


@pytest.mark.parametrize("room", LAYERS)
def test_there_is_something_to_look_at(room: str) -> None:
    assert len(sources(room)) > 10


@check
def upward_imports(looked_at: Sequence[Source]) -> list[str]:
    """Relative ones, too: they hide where they lead."""
    return [
        f"{each.name}:{found.line} imports {found.module}"
        for each in looked_at
        for found in each.imports
        if found.module.startswith((".", *ABOVE.get(each.room, ())))
    ]


def test_no_import_goes_upward() -> None:
    assert upward_imports(sources(*LAYERS)) == []


@check
def event_loops(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{found.line}"
        for each in looked_at
        for found in each.imports
        if each.room == "workers" and found.module.partition(".")[0] == "asyncio"
    ]


def test_workers_have_no_event_loop() -> None:
    assert event_loops(sources(*LAYERS)) == []


def stored_states(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{node.lineno}"
        for each in looked_at
        if "job.state" in each.text
        for node in each.nodes
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if ast.unparse(target).endswith("job.state")
    ]


@check
def states_stored_elsewhere(looked_at: Sequence[Source]) -> list[str]:
    return stored_states([each for each in looked_at if each.name != "supervisor/dispatch/dispatcher.py"])


def test_only_the_dispatcher_stores_a_state() -> None:
    assert states_stored_elsewhere(sources(*LAYERS)) == []
    assert len(stored_states(sources(*LAYERS))) == 1


@check
def saying_nothing_of_where_they_run(looked_at: Sequence[Source]) -> list[str]:
    return [each.name for each in looked_at if each.path.name != "__init__.py" and "Runs in:" not in each.docstring]


@pytest.mark.parametrize("room", LAYERS)
def test_every_module_says_where_it_runs(room: str) -> None:
    assert saying_nothing_of_where_they_run(sources(room)) == []


@check
def naming_one_machine(looked_at: Sequence[Source]) -> list[str]:
    ours = (f"{Path.home()}/", f"{ROOT}/")
    return [each.name for each in looked_at if any(path in each.text for path in ours)]


@pytest.mark.parametrize("room", (*LAYERS, "tests", "benchmarks"))
def test_no_path_of_one_machine(room: str) -> None:
    assert naming_one_machine(sources(room)) == []
