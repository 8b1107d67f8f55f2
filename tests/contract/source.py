"""The project's source as trees: what the contracts are checked on, as functions that return what offends.

A test of one asserts that nothing of ours does; `test_planted_offences` plants an offence for each, which it has to
name.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("workers", "supervisor", "api")


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    at_once: bool
    """When the module is imported; not when a function is called, nor for type checkers only."""


@dataclass(frozen=True)
class Source:
    path: Path
    planted: str | None = None
    """What it would say, instead of what it says."""

    @property
    def name(self) -> str:
        """As `supervisor/pools/pool.py`."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def room(self) -> str:
        return self.name.partition("/")[0]

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8") if self.planted is None else self.planted

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree: to find them takes as long as to parse the file."""
        return list(ast.walk(self.tree))

    @property
    def docstring(self) -> str:
        return " ".join((ast.get_docstring(self.tree) or "").split())

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        yield from (node for node in self.nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))

    @functools.cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, True))

    @functools.cached_property
    def calls(self) -> list[tuple[str, int]]:
        """What is called, as it is written (`os.kill`, `self._loop.time`), and the line.

        Whatever name an import gives it: `from os import kill as end` makes `os.kill` of `end`.
        """
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Call):
                head, dot, rest = _written(node.func).partition(".")
                found.append((self._origins.get(head, head) + dot + rest, node.lineno))
        return found

    @functools.cached_property
    def _origins(self) -> dict[str, str]:
        found = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found.update({alias.asname: alias.name for alias in node.names if alias.asname is not None})
            elif isinstance(node, ast.ImportFrom):
                found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        return found


def _written(node: ast.expr) -> str:
    """Return an expression as it is written. Most are names with dots, for which `ast.unparse` takes twenty times as
    long.
    """
    names, inner = [], node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    return ".".join((inner.id, *reversed(names))) if isinstance(inner, ast.Name) else ast.unparse(node)


def _imports(node: ast.AST, at_once: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # no import is in one
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            names = [f"{module}.{alias.name}" for alias in child.names]
        else:
            test = child.test if isinstance(child, ast.If) else None
            for_checkers = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
            later = for_checkers or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _imports(child, at_once and not later)
            continue
        yield from (Import(name, child.lineno, at_once) for name in names)


Check = Callable[[Sequence[Source]], list[str]]
CHECKS: list[Check] = []


def check(offences: Check) -> Check:
    """Enter it among those that need a control."""
    CHECKS.append(offences)
    return offences


@functools.cache
def sources(*layers: str) -> list[Source]:
    found = [
        source(path.relative_to(ROOT).as_posix()) for layer in layers for path in sorted((ROOT / layer).rglob("*.py"))
    ]
    assert found
    return found


@functools.cache
def source(name: str) -> Source:
    """Return a file, which is parsed once for all checks."""
    return Source(ROOT / name)


def forget_trees() -> None:
    sources.cache_clear()
    source.cache_clear()
