"""api → supervisor → workers, never back. Read from the sources; `test_rooms` has what each room may touch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("workers", "supervisor", "api")


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports inside are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_there_is_something_to_look_at(room: str) -> None:
    assert len(sources(room)) > 10


def test_no_import_goes_upward() -> None:
    above = {"workers": ("killable.supervisor", "killable.api"), "supervisor": ("killable.api",), "api": ()}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for room, forbidden in above.items()
        for path in sources(room)
        for name in imports(path)
        if name.startswith(forbidden or ("nothing at all",))
    ]
    assert wrong == []


def test_workers_have_no_event_loop() -> None:
    assert [path.name for path in sources("workers") if "asyncio" in set(imports(path))] == []


def test_only_the_dispatcher_stores_a_state() -> None:
    stores = [
        f"{path.name}:{node.lineno}"
        for path in sources("supervisor")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Assign, ast.AugAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if ast.unparse(target) == "entry.state"
    ]
    assert len(stores) == 1 and stores[0].startswith("dispatcher.py:")


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_fits_in_the_head(room: str) -> None:
    long_files = {path.name: length for path in sources(room) if (length := len(path.read_text().splitlines())) > 400}
    long_functions = [
        f"{path.name}:{node.name}"
        for path in sources(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert (long_files, long_functions) == ({}, [])


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_says_where_it_runs(room: str) -> None:
    silent = []
    for path in sources(room):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        if path.name != "__init__.py" and "Runs in:" not in docstring:
            silent.append(path.name)
    assert silent == []


@pytest.mark.parametrize("room", (*ROOMS, "tests", "benchmarks"))
def test_no_path_of_one_machine(room: str) -> None:
    home = str(Path.home()) + "/"
    checkout = str(ROOT) + "/"
    assert [path.name for path in sources(room) if home in path.read_text() or checkout in path.read_text()] == []
