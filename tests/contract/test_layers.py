"""api → supervisor → workers, never back; and what is pure stays pure. Read from the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("workers", "supervisor", "api")
DECIDING = ("escalation", "lifecycle", "backlog", "scheduler", "exits")
SEAM = ("process", "cgroup", "spawner", "leftovers", "channel", "system")
OPTIONAL_IN_WORKERS = {"pydantic", "tokenizers", "xllamacpp", "onnxruntime", "numpy", "annotationlib"}
"""Imported only where the user's own interpreter has them; the last one is the standard library's from 3.14 on."""


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


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


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


def test_workers_need_the_standard_library_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"killable"} | OPTIONAL_IN_WORKERS
    wrong = [f"{path.name}: {name}" for path in sources("workers") for name in imports(path)
             if name.partition(".")[0] not in allowed]  # fmt: skip
    assert wrong == []


def test_workers_have_no_event_loop() -> None:
    assert [path.name for path in sources("workers") if "asyncio" in set(imports(path))] == []


@pytest.mark.parametrize("module", DECIDING)
def test_what_decides_imports_neither_loop_nor_system(module: str) -> None:
    found = {name.partition(".")[0] for name in imports(ROOT / f"supervisor/{module}.py")}
    assert found.isdisjoint({"asyncio", "os", "signal", "time", "socket", "subprocess", "psutil"})


def test_nothing_sleeps_in_the_supervisor() -> None:
    found = [f"{path.name}:{line}" for path in sources("supervisor") for name, line in calls(path) if "sleep" in name]
    assert found == []


def test_only_the_clock_reads_a_clock() -> None:
    found = [f"{path.name}: {name}" for path in sources("supervisor") for name in imports(path)
             if name.partition(".")[0] in ("time", "datetime") and path.stem != "clock"]  # fmt: skip
    assert found == []


def test_only_the_seam_sends_signals() -> None:
    sending = ("os.kill", "os.killpg", "signal.pidfd_send_signal", "os.pidfd_open")
    found = {path.stem for room in ("supervisor", "api") for path in sources(room)
             for name, _ in calls(path) if name in sending}  # fmt: skip
    assert found <= {*SEAM, "checks", "serving_process"}


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
